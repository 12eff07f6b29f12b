<qgis version="3.22.0" styleCategories="Symbology">
  <pipe>
    <rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1" nodataColor="">
      <colorPalette>
        <paletteEntry value="1" color="#419bdf" alpha="255" label="Water" />
        <paletteEntry value="2" color="#397d49" alpha="255" label="Trees" />
        <paletteEntry value="3" color="#7a87c6" alpha="255" label="Flooded vegetation" />
        <paletteEntry value="4" color="#e49635" alpha="255" label="Crops" />
        <paletteEntry value="5" color="#c4281b" alpha="255" label="Built area" />
        <paletteEntry value="6" color="#a59b8f" alpha="255" label="Bare ground" />
        <paletteEntry value="7" color="#a8ebff" alpha="255" label="Snow/ice" />
        <paletteEntry value="8" color="#616161" alpha="255" label="Clouds" />
        <paletteEntry value="9" color="#e3e2c3" alpha="255" label="Rangeland" />
      </colorPalette>
    </rasterrenderer>
  </pipe>
</qgis>

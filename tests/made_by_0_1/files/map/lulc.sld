<StyledLayerDescriptor version="1.0.0" xmlns="http://www.opengis.net/sld" xmlns:ogc="http://www.opengis.net/ogc">
  <NamedLayer>
    <Name>esri-io</Name>
    <UserStyle>
      <Name>esri-io</Name>
      <FeatureTypeStyle>
        <Rule>
          <RasterSymbolizer>
            <ChannelSelection>
              <GrayChannel>
                <SourceChannelName>1</SourceChannelName>
              </GrayChannel>
            </ChannelSelection>
            <ColorMap type="values">
              <ColorMapEntry color="#419bdf" quantity="1" label="Water" opacity="1" />
              <ColorMapEntry color="#397d49" quantity="2" label="Trees" opacity="1" />
              <ColorMapEntry color="#7a87c6" quantity="3" label="Flooded vegetation" opacity="1" />
              <ColorMapEntry color="#e49635" quantity="4" label="Crops" opacity="1" />
              <ColorMapEntry color="#c4281b" quantity="5" label="Built area" opacity="1" />
              <ColorMapEntry color="#a59b8f" quantity="6" label="Bare ground" opacity="1" />
              <ColorMapEntry color="#a8ebff" quantity="7" label="Snow/ice" opacity="1" />
              <ColorMapEntry color="#616161" quantity="8" label="Clouds" opacity="1" />
              <ColorMapEntry color="#e3e2c3" quantity="9" label="Rangeland" opacity="1" />
            </ColorMap>
          </RasterSymbolizer>
        </Rule>
      </FeatureTypeStyle>
    </UserStyle>
  </NamedLayer>
</StyledLayerDescriptor>

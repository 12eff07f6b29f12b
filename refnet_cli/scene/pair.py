"""A scene pair on one grid, read as reflectance x 10,000 and dB.

The grid of the result is that of the optical image, or of the SAR image if there are no optical files. Only SAR is
warped, in linear power. A pair may lack one sensor; its pixels are then NaN. Each thread that reads has its own open
files, because GDAL datasets are not thread-safe.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from queue import SimpleQueue
from typing import Self

import numpy as np
from odc.geo.geobox import GeoBox
from rasterio.transform import Affine

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.raster.georeference import pixel_metres, pixel_size_warnings
from refnet_cli.raster.raster import BLOCK, Raster
from refnet_cli.scene.absent import absent_sensor, single_sensor_options
from refnet_cli.scene.blocks import Block, BlockReader, Patch
from refnet_cli.scene.grid import choose_zone, grid_advice, result_grid, zone_warnings
from refnet_cli.scene.images import OpticalImage, SarImage, select_bands
from refnet_cli.scene.inputs import Given, find_files
from refnet_cli.scene.options import Coregistration, SceneOptions
from refnet_cli.scene.registration import NEGLIGIBLE, Piece, Shift, describe_offset, estimate_shift, spread_pieces
from refnet_cli.scene.resample import align_bands
from refnet_cli.scene.source import Source
from refnet_cli.scene.swapped import explain_swapped, refuse_swapped, warn_of_unused
from refnet_cli.sensors.decisions import Decision, refuse_guesses
from refnet_cli.sensors.quality import CLOUD, SENSOR_BITS, UNREADABLE
from refnet_cli.tiles.window import Window
from refnet_cli.types import Float32

Handles = tuple[dict[int, Raster], dict[int, Raster]]
"""The optical and the SAR files, opened for one thread."""


class ScenePair(BlockReader):
    """Optical and SAR files of the same area, or of one sensor only, on a common grid.

    Use ``ScenePair.open``, preferably in a ``with`` statement. Only one thread at a time may read.
    """

    def __init__(
        self,
        optical: Source | None,
        sar: Source | None,
        optical_bands: Sequence[str],
        sar_bands: Sequence[str],
        options: SceneOptions,
        grid: GeoBox | None,
    ) -> None:
        sources = [source for source in (optical, sar) if source]
        self.absent = None if len(sources) == 2 else "sar" if optical else "optical"
        refuse_swapped(sources)
        with explain_swapped(sources):
            optical_chosen = select_bands(optical, optical_bands, options.optical_bands) if optical else None
            sar_chosen = select_bands(sar, sar_bands, options.sar_bands) if sar else None
        chosen = [each for each in (optical_chosen, sar_chosen) if each]
        self.grid, decision = result_grid(optical, chosen[0].layers, sar, options, grid)
        parts = {each.modality: align_bands(each.source, each.layers, self.grid) for each in chosen}
        self._optical: OpticalImage | None = None
        self._sar: SarImage | None = None
        with explain_swapped(sources):
            if optical_chosen:
                self._optical = OpticalImage(
                    optical_chosen, parts["optical"], optical_bands, self.grid, options, edges=sar is not None
                )
            if sar_chosen:
                self._sar = SarImage(sar_chosen, parts["sar"], sar_bands, options)
        self._images: list[OpticalImage | SarImage] = [image for image in (self._optical, self._sar) if image]
        self.decisions: list[Decision] = [decision]
        self.warnings: list[str] = []
        if sar and any(raster.gcps_only for raster in sar.rasters.values()):
            self.warnings.append(
                "SAR is georeferenced by ground control points only: in relief it is off by hundreds of metres."
            )
        for source in sources:
            self.decisions += source.decisions
            self.warnings += source.warnings + (warn_of_unused(source) if self.absent else [])
        self.decisions += self._sar.describe_alignment() if self._sar else []
        for image in self._images:
            self.decisions += image.decisions
            self.warnings += image.warnings
        if options.strict:
            refuse_guesses(self.decisions)
        levels = {name: level for image in self._images for name, level in image.levels.items()}
        self.levels = {name: level for name, level in levels.items() if math.isfinite(level)}
        self._opened = ExitStack()
        self._files: SimpleQueue[Handles] = SimpleQueue()
        self.files = [path for image in self._images for path in image.source.files.on_disk(image.files)]
        self.remote = [url for image in self._images for url in image.source.files.remote(image.files)]
        self.warnings += pixel_size_warnings(self.grid)
        if sar_chosen and self.absent and options.grid is None:
            self.warnings += grid_advice(sar_chosen.source, sar_chosen.layers, self.grid)

    @classmethod
    def open(
        cls,
        optical: Given | None,
        sar: Given | None,
        optical_bands: Sequence[str],
        sar_bands: Sequence[str],
        options: SceneOptions | None = None,
        kept_blocks: int | None = None,
        read_threads: int = 1,
        grid: GeoBox | None = None,
    ) -> Self:
        """Open the files and detect their properties.

        Parameters
        ----------
        optical, sar : path, sequence of paths, or sequence of ArrayImage
            Local GeoTIFF or JPEG 2000 files: one with all bands, or several, which may form a mosaic; a folder or zip
            of them; a SAFE product as folder, zip or metadata file; if the options allow them, virtual rasters and
            URLs. Images in memory instead of files. None if the scene has no files of the sensor.
        optical_bands, sar_bands : sequence of str
            Bands of the network, in its order, such as ["B02", "B03"] and ["VV", "VH"].
        options : SceneOptions, optional
            Options of the scene.
        kept_blocks : int, optional
            Number of blocks of 512 x 512 pixels in memory. By default two rows of the grid's width, for reading from
            north to south.
        read_threads : int
            Number of threads that prepare the windows given to `prefetch`. Each opens all files and adds two blocks to
            those in memory. The values do not depend on it.
        grid : GeoBox, optional
            Read on this grid, whatever the options say of the grid, its bounds and its extent.

        Raises
        ------
        InputMissingError
            If a file is missing, unreadable or cannot be fetched.
        InputError
            If a file is unusable or cannot be interpreted, the files do not overlap, or a required shift is uncertain.
        OptionsError
            If the options contradict the files.
        """
        options = single_sensor_options(options or SceneOptions(), absent_sensor(optical, sar))
        with ExitStack() as opened:
            optical_source, sar_source, decision = _open_sources(optical, sar, options, opened)
            pair = cls(optical_source, sar_source, optical_bands, sar_bands, options, grid)
            if decision:
                pair.decisions.append(decision)
                pair.warnings += zone_warnings(decision)
            handles = [pair._first_handles(), *(pair._more_handles(opened) for _ in range(read_threads - 1))]
            for files in handles:
                pair._files.put(files)
            bands, either = (len(optical_bands), len(sar_bands)), options.missing == "use-other"
            pair.start_reading(bands, either, kept_blocks, len(handles))
            if options.coreg != "off":
                pair._coregister(options.coreg)
            pair._opened = opened.pop_all()
        return pair

    def _first_handles(self) -> Handles:
        """Return the files that are already open. Close those that are not needed."""
        for image in self._images:
            image.source.close_others(image.files)
        optical, sar = (image.source.rasters if image else {} for image in (self._optical, self._sar))
        return optical, sar

    def _more_handles(self, opened: ExitStack) -> Handles:
        """Open the needed files again, to be closed by ``opened``."""
        optical, sar = (
            image.source.files.open(opened, image.files) if image else {} for image in (self._optical, self._sar)
        )
        return optical, sar

    def use_threads(self, count: int) -> None:
        """Reduce the number of threads to ``count``; a larger number has no effect."""
        given_up = max(self._most_ahead // 2 - count, 0)
        super().use_threads(count)  # first, so that `close` never waits for these files
        for _ in range(given_up):
            self._files.get()  # never returned; `close` closes them

    def close(self) -> None:
        """Stop the threads and close the files."""
        super().close()
        files = [self._files.get() for _ in range(self._most_ahead // 2)]  # waits until all threads have finished
        self._opened.close()
        for pair in files:
            self._files.put(pair)

    def make_block(self, key: tuple[int, int]) -> Block:
        """Read and warp a block. Any thread may call this; each uses its own files."""
        window = Window(key[0] * BLOCK, key[1] * BLOCK, BLOCK, BLOCK).clip(*self.grid.shape)
        counts: Counter[str] = Counter()
        optical, sar = files = self._files.get()
        try:
            cloudy, broken = np.zeros((2, window.height, window.width), bool)
            patch = Patch(
                self._optical.read(optical, window, counts, cloudy, broken)
                if self._optical
                else _nothing(self._bands[0], window),
                self._sar.read(sar, window, counts, broken) if self._sar else _nothing(self._bands[1], window),
            )
        finally:
            self._files.put(files)
        optical_seen, sar_seen = patch.optical_valid, patch.sar_valid
        if self.either:
            # The quality band records a sensor only if all its bands are valid, so drop partly valid pixels.
            patch.optical[:, ~optical_seen] = np.nan
            patch.sar[:, ~sar_seen] = np.nan
        seen = optical_seen + np.uint8(2) * sar_seen
        seen[cloudy] |= CLOUD
        present = {None: SENSOR_BITS, "sar": 1, "optical": 2}[self.absent]
        seen[broken & (seen & SENSOR_BITS < present)] |= UNREADABLE
        return Block(patch, seen, counts)

    def estimate_shift(self, watch: Callable[[Piece, int, int], None] | None = None) -> Shift:
        """Estimate the residual shift between SAR and optical; see `refnet_cli.scene.registration`.

        Reads other bands than those of the network if they show edges better.

        Parameters
        ----------
        watch : callable, optional
            Called with each compared piece, the number of compared pieces and of all pieces.

        Raises
        ------
        InputError
            If a file is unreadable.
        OptionsError
            If the scene has only one sensor.
        """
        optical_image, sar_image = self._both()
        optical, sar = files = self._files.get()
        aside: Counter[str] = Counter()

        def pieces() -> Iterator[Piece]:
            places = spread_pieces(*self.grid.shape)
            for number, place in enumerate(places, 1):
                window = Window(*place)
                broken = np.zeros((window.height, window.width), bool)
                seen = optical_image.read_edges(optical, window, aside, broken)
                piece = Piece(window.row, window.column, seen, sar_image.read(sar, window, aside, broken))
                yield piece
                if watch:
                    watch(piece, number, len(places))

        try:
            return estimate_shift(pieces())
        finally:
            self._files.put(files)

    def _both(self) -> tuple[OpticalImage, SarImage]:
        if not (self._optical and self._sar):
            raise OptionsError(f"A shift needs optical and SAR files, but there are no {self.absent} files. Pass both.")
        return self._optical, self._sar

    def _coregister(self, how: Coregistration) -> None:
        """Record the shift of SAR against optical, and apply it to SAR if the options require it."""
        _, sar = self._both()
        shift = self.estimate_shift()
        if how == "require" and not shift.accepted:
            raise InputError(
                f"--coreg require finds no reliable shift between {sar.source.label} and the optical image. "
                f"{shift.reason} Use files of the same area and season, or pass --coreg auto."
            )
        moves = [round(float(move), 2) for move in (shift.columns, shift.rows) if math.isfinite(move)]
        applied = shift.accepted and how in ("auto", "require")
        if applied:
            # Align SAR with a grid moved in the opposite direction, so that it appears at its corrected position.
            place = self.grid.transform @ Affine.translation(-moves[0], -moves[1])
            sar.move(GeoBox(self.grid.shape, place, self.grid.crs))
            self.decisions = [found for found in self.decisions if found.what not in ("overlap", "sar.resampling")]
            self.decisions += sar.describe_alignment()
        columns, rows = moves or (None, None)
        value = {"columns": columns, "rows": rows, "accepted": shift.accepted, "applied": applied}
        self.decisions.append(Decision("coreg", value, f"values: {shift.reason}"))
        if shift.accepted and not applied and math.hypot(*moves) > NEGLIGIBLE:
            offset = describe_offset(moves[0], moves[1], *pixel_metres(self.grid))
            self.warnings.append(f"SAR lies {offset}; --coreg auto corrects it.")


def _open_sources(
    optical: Given | None, sar: Given | None, options: SceneOptions, opened: ExitStack
) -> tuple[Source | None, Source | None, Decision | None]:
    """Open the files of the sensors, and return which UTM zone of a product was chosen."""
    mask_errors = options.on_read_error == "mask"
    found = [] if optical is None else find_files(optical, "optical", options)
    alternatives = [replace(files, mask_errors=mask_errors, cloud_mask=options.cloud_file) for files in found]
    sar_source = None
    if sar is not None:
        sar_source = Source(replace(find_files(sar, "sar", options)[0], mask_errors=mask_errors), opened)
    if not alternatives:
        return None, sar_source, None
    files, decision = choose_zone(alternatives, sar_source)
    return Source(files, opened), sar_source, decision


def _nothing(bands: int, window: Window) -> Float32:
    """Return the pixels of an absent sensor, shape (B, H, W): a read-only NaN array that takes no memory."""
    return np.broadcast_to(np.float32(np.nan), (bands, window.height, window.width))

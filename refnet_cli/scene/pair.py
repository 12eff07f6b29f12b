"""A scene pair on one grid: what all files are, and their pixels as reflectance x 10,000 and dB.

The optical image's grid is the result's grid; only SAR is warped, in linear power. A pair may lack one sensor, whose
pixels are then NaN; without optical files the grid is that of SAR. Both are served in blocks anchored
at the grid's origin, from which every window is cut, so that values never depend on the window that was asked for.
Threads may make the blocks ahead of time, each with files of its own, since GDAL's open files bear one thread only.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from queue import SimpleQueue
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.transform import Affine

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.products import CLOUD, SENSORS, UNREADABLE, Modality, usable
from refnet_cli.register import Piece, Shift, estimate_shift, spread_pieces
from refnet_cli.scene.absent import absent_sensor, without_absent
from refnet_cli.scene.clouds import UInt8
from refnet_cli.scene.exchanged import advising_exchange, refuse_exchanged
from refnet_cli.scene.geometry import warn_of_pixels
from refnet_cli.scene.grid import advise_grid, choose_zone, result_grid, warn_of_zone
from refnet_cli.scene.images import OpticalImage, SarImage, choose_layers
from refnet_cli.scene.inputs import Paths, find_files
from refnet_cli.scene.judge import Decision, refuse_guesses
from refnet_cli.scene.options import Coregistration, SceneOptions
from refnet_cli.scene.parts import make_parts
from refnet_cli.scene.raster import BLOCK, Float32, Raster
from refnet_cli.scene.source import Source
from refnet_cli.tiling import Window

Handles = tuple[dict[int, Raster], dict[int, Raster]]
"""The optical and the SAR files, opened for one thread."""


class Patch(NamedTuple):
    """Pixels of both modalities on the same window of the grid.

    Parameters
    ----------
    optical : float32 array, shape (Bo, H, W)
        Reflectance x 10,000; NaN where invalid.
    sar : float32 array, shape (Bs, H, W)
        Backscatter in dB; NaN where invalid.
    """

    optical: Float32
    sar: Float32

    @property
    def optical_valid(self) -> NDArray[np.bool_]:
        """Where all optical bands are known, shape (H, W)."""
        return np.asarray(np.isfinite(self.optical).all(axis=0))

    @property
    def sar_valid(self) -> NDArray[np.bool_]:
        """Where all SAR bands are known, shape (H, W)."""
        return np.asarray(np.isfinite(self.sar).all(axis=0))

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Where all bands of both modalities are known, shape (H, W)."""
        return self.optical_valid & self.sar_valid


class OneSensorPatch(Patch):
    """Pixels of a scene of one sensor; those of the absent one are NaN."""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Where all bands of the sensor that there is are known, shape (H, W)."""
        return self.optical_valid | self.sar_valid


class _Block(NamedTuple):
    """A block of the grid, what was seen of it, and what was set aside while making it."""

    patch: Patch
    seen: UInt8
    counts: Counter[str]


class ScenePair:
    """Optical and SAR files of the same place, or of one sensor only, served on the optical image's grid or on SAR's.

    Use ``ScenePair.open`` and, best, a ``with`` statement. One thread at a time may read from it.

    Attributes
    ----------
    grid : GeoBox
        The result's grid.
    absent : {"optical", "sar"} or None
        The sensor that there are no files of.
    decisions : list of Decision
        What was found out about the files, and how.
    counts : Counter of str
        Values set aside so far: ``optical_non_finite``, ``optical_impossible``, ``sar_non_finite``,
        ``sar_impossible`` (in the files' pixels where those are resampled, and then those that neighbouring blocks
        share more than once), ``optical_cloudy`` and ``sar_clamped`` (in the grid's).
    files : list of Path
        All that is read from disks.
    remote : list of str
        URLs of all that is fetched, as they may be shown.
    warnings : list of str
        What may spoil a result.
    levels : dict
        Mean of each needed band that is there, in reflectance x 10,000 or dB, over pixels spread over the files.
    """

    def __init__(
        self,
        optical: Source | None,
        sar: Source | None,
        optical_bands: Sequence[str],
        sar_bands: Sequence[str],
        options: SceneOptions,
        kept_blocks: int | None,
    ) -> None:
        sources = [source for source in (optical, sar) if source]
        self.absent: Modality | None = None if len(sources) == 2 else "sar" if optical else "optical"
        self._bands = len(optical_bands), len(sar_bands)
        self.counts: Counter[str] = Counter()
        self._either = options.missing == "use-other"
        refuse_exchanged(sources)
        with advising_exchange(sources):
            optical_chosen = choose_layers(optical, optical_bands, options.optical_bands) if optical else None
            sar_chosen = choose_layers(sar, sar_bands, options.sar_bands) if sar else None
        chosen = [each for each in (optical_chosen, sar_chosen) if each]
        self.grid, decision = result_grid(optical, chosen[0].layers, sar, options)
        parts = {each.modality: make_parts(each.source, each.layers, self.grid) for each in chosen}
        self._optical: OpticalImage | None = None
        self._sar: SarImage | None = None
        with advising_exchange(sources):
            if optical_chosen:
                self._optical = OpticalImage(
                    optical_chosen, parts["optical"], optical_bands, self.grid, options, edges=sar is not None
                )
            if sar_chosen:
                self._sar = SarImage(sar_chosen, parts["sar"], sar_bands, options)
        self._images: list[OpticalImage | SarImage] = [image for image in (self._optical, self._sar) if image]
        self.decisions: list[Decision] = [decision]
        self.warnings: list[str] = []
        if sar and any(raster.by_points for raster in sar.rasters.values()):
            self.warnings.append("SAR is placed by ground control points: in relief it is off by hundreds of metres.")
        for source in sources:
            self.decisions += source.decisions
            self.warnings += source.warnings
        self.decisions += self._sar.describe_place() if self._sar else []
        for image in self._images:
            self.decisions += image.decisions
            self.warnings += image.warnings
        if options.strict:
            refuse_guesses(self.decisions)
        levels = {name: level for image in self._images for name, level in image.levels.items()}
        self.levels = {name: level for name, level in levels.items() if math.isfinite(level)}
        self._opened = ExitStack()
        self._blocks: OrderedDict[tuple[int, int], _Block] = OrderedDict()
        self._kept = kept_blocks or 2 * -(-self.grid.shape[1] // BLOCK) + 2
        self._counted: dict[tuple[int, int], Counter[str]] = {}
        self.files = [path for image in self._images for path in image.source.files.on_disk(image.files)]
        self.remote = [url for image in self._images for url in image.source.files.remote(image.files)]
        self.warnings += warn_of_pixels(self.grid)
        if sar_chosen and self.absent and options.grid is None:
            self.warnings += advise_grid(sar_chosen.source, sar_chosen.layers, self.grid)

    @classmethod
    def open(
        cls,
        optical: Paths | None,
        sar: Paths | None,
        optical_bands: Sequence[str],
        sar_bands: Sequence[str],
        options: SceneOptions | None = None,
        kept_blocks: int | None = None,
        read_threads: int = 1,
    ) -> Self:
        """Open the files and decide what they are.

        Parameters
        ----------
        optical, sar : path, or sequence of paths
            Local GeoTIFF or JPEG 2000 files, one with all bands or several, also side by side; a folder or zip of them;
            a SAFE product as folder, zip or metadata file; where the options allow them, virtual rasters and URLs.
            None for one of them if the scene has no files of that sensor.
        optical_bands, sar_bands : sequence of str
            Bands the network wants, in its order, such as ["B02", "B03"] and ["VV", "VH"].
        options : SceneOptions, optional
            What the user says about the files.
        kept_blocks : int, optional
            How many blocks of 512 x 512 pixels to keep in memory; by default two rows of the grid's width, which
            suits reading from north to south.
        read_threads : int
            How many threads make blocks of windows announced by `expect`; each opens all files for itself. Two blocks
            a thread are kept in memory besides ``kept_blocks``. Values are the same for any number.

        Raises
        ------
        InputMissingError
            If a file is missing, may not be read or cannot be fetched.
        InputError
            If a file cannot be used or understood, they do not overlap, or a shift that is required is not found.
        OptionsError
            If the options do not fit the files.
        """
        options = without_absent(options or SceneOptions(), absent_sensor(optical, sar))
        with ExitStack() as opened:
            optical_source, sar_source, decision = _open_sources(optical, sar, options, opened)
            pair = cls(optical_source, sar_source, optical_bands, sar_bands, options, kept_blocks)
            if decision:
                pair.decisions.append(decision)
                pair.warnings += warn_of_zone(decision)
            handles = [pair._first_handles(), *(pair._more_handles(opened) for _ in range(read_threads - 1))]
            pair._start_threads(handles)
            if options.coreg != "off":
                pair._coregister(options.coreg)
            pair._opened = opened.pop_all()
        return pair

    def _first_handles(self) -> Handles:
        """Return the files that are open already, and close those that are not read."""
        for image in self._images:
            image.source.close_others(image.files)
        optical, sar = (image.source.rasters if image else {} for image in (self._optical, self._sar))
        return optical, sar

    def _more_handles(self, opened: ExitStack) -> Handles:
        """Open the files that are read once more, to be closed by ``opened``."""
        optical, sar = (
            image.source.files.open(opened, image.files) if image else {} for image in (self._optical, self._sar)
        )
        return optical, sar

    def _start_threads(self, handles: Sequence[Handles]) -> None:
        self._files: SimpleQueue[Handles] = SimpleQueue()
        for files in handles:
            self._files.put(files)
        self._threads = ThreadPoolExecutor(len(handles), "refnet-read")
        self._most_ahead = 2 * len(handles)
        self._ahead: dict[tuple[int, int], Future[_Block]] = {}
        self._expected: Iterator[tuple[int, int]] = iter(())

    def use_threads(self, count: int) -> None:
        """Go on with fewer threads; more than there are change nothing."""
        given_up = max(self._most_ahead // 2 - count, 0)
        self._most_ahead -= 2 * given_up  # first, so that closing never waits for files that are gone
        for _ in range(given_up):
            self._files.get()  # for good; closing closes them all the same

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads and close the files."""
        self._threads.shutdown(cancel_futures=True)
        files = [self._files.get() for _ in range(self._most_ahead // 2)]  # once nobody reads any more
        self._opened.close()
        for pair in files:
            self._files.put(pair)
        self._ahead.clear()
        self._blocks.clear()

    def read(self, window: Window) -> Patch:
        """Read a window of the grid.

        Parameters
        ----------
        window : Window
            Any rectangle inside the grid.

        Returns
        -------
        Patch
            A pixel has the same values in every window. A `OneSensorPatch` if a sensor is absent.

        Raises
        ------
        ValueError
            If the window is empty or leaves the grid.
        InputError
            If a file cannot be read there.
        """
        optical, sar = (np.empty((bands, window.height, window.width), np.float32) for bands in self._bands)
        for block, there, here in self._parts(window):
            optical[:, *here] = block.patch.optical[:, *there]
            sar[:, *here] = block.patch.sar[:, *there]
        return OneSensorPatch(optical, sar) if self.absent else Patch(optical, sar)

    def read_seen(self, window: Window) -> UInt8:
        """Read which sensors' bands are all known, shape (H, W): 1 optical, 2 SAR, 3 both, 0 neither.

        Where one is not, `CLOUD` and `UNREADABLE` are added if that is why. `read` tells window and errors.
        """
        seen = np.empty((window.height, window.width), np.uint8)
        for block, there, here in self._parts(window):
            seen[here] = block.seen[there]
        return seen

    def counts_in(self, area: Window) -> dict[str, int]:
        """Return those of `counts` that are of an area of whole blocks, in the order of their names."""
        found = sum((self._counted[key] for key in _keys(area) if key in self._counted), Counter())
        return dict(sorted(found.items()))

    def usable(self, seen: UInt8) -> NDArray[np.bool_]:
        """Tell which pixels are worth anything, given what `read_seen` returned."""
        return usable(seen, self._either or self.absent is not None)

    def read_valid(self, window: Window) -> NDArray[np.bool_]:
        """Read which pixels are worth anything, shape (H, W); `read` tells window and errors."""
        return self.usable(self.read_seen(window))

    def expect(self, windows: Iterable[Window]) -> None:
        """Announce the windows to be read next, in their order, so that threads make them ready.

        Parameters
        ----------
        windows : iterable of Window
            Taken one by one as reading goes on; what lies beyond the grid is passed over. Other windows may be read
            too, and take the time they would take without threads.
        """
        for future in self._ahead.values():
            future.cancel()
        self._ahead.clear()
        self._expected = (key for window in windows for key in _keys(window.clip(*self.grid.shape)))
        self._look_ahead()

    def _look_ahead(self) -> None:
        while len(self._ahead) < self._most_ahead and (key := next(self._expected, None)):
            if key not in self._blocks and key not in self._ahead:
                self._ahead[key] = self._threads.submit(self._make_block, key)

    def _parts(self, window: Window) -> Iterator[tuple[_Block, tuple[slice, slice], tuple[slice, slice]]]:
        """Yield each block that a window needs, the part of it, and this part's place in the window."""
        if window != window.clip(*self.grid.shape) or window.height < 1 or window.width < 1:
            raise ValueError("{} is not inside the grid of {} x {} pixels.".format(window, *self.grid.shape))
        row, column = window.row, window.column
        for key in _keys(window):
            top, left = key[0] * BLOCK, key[1] * BLOCK
            low, high = max(row, top), min(row + window.height, top + BLOCK)
            west, east = max(column, left), min(column + window.width, left + BLOCK)
            there = slice(low - top, high - top), slice(west - left, east - left)
            here = slice(low - row, high - row), slice(west - column, east - column)
            yield self._block(key), there, here

    def _block(self, key: tuple[int, int]) -> _Block:
        if key in self._blocks:
            self._blocks.move_to_end(key)
            return self._blocks[key]
        ahead = self._ahead.pop(key, None)
        # Makes room first, so that kept and expected blocks together stay within bounds.
        while len(self._blocks) >= self._kept:
            self._blocks.popitem(last=False)
        block = ahead.result() if ahead else self._make_block(key)
        if key not in self._counted:
            self._counted[key] = block.counts
            self.counts += block.counts
        self._blocks[key] = block
        self._look_ahead()
        return block

    def _make_block(self, key: tuple[int, int]) -> _Block:
        """Read and warp a block; any thread may, each with files of its own."""
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
        if self._either:
            # A sensor that did not see all of a pixel has no say there, as the quality band tells.
            patch.optical[:, ~optical_seen] = np.nan
            patch.sar[:, ~sar_seen] = np.nan
        seen = optical_seen + np.uint8(2) * sar_seen
        seen[cloudy] |= CLOUD
        present = {None: SENSORS, "sar": 1, "optical": 2}[self.absent]
        seen[broken & (seen & SENSORS < present)] |= UNREADABLE
        return _Block(patch, seen, counts)

    def estimate_shift(self) -> Shift:
        """Find out how far SAR and optical are still apart; see `refnet_cli.register`.

        Other bands than the wanted ones are read where they show edges better.

        Raises
        ------
        InputError
            If a file cannot be read.
        OptionsError
            If the scene has one sensor only.
        """
        optical_image, sar_image = self._both()
        optical, sar = files = self._files.get()
        aside: Counter[str] = Counter()

        def pieces() -> Iterator[Piece]:
            for place in spread_pieces(*self.grid.shape):
                window = Window(*place)
                broken = np.zeros((window.height, window.width), bool)
                seen = optical_image.read_edges(optical, window, aside, broken)
                yield Piece(window.row, window.column, seen, sar_image.read(sar, window, aside, broken))

        try:
            return estimate_shift(pieces())
        finally:
            self._files.put(files)

    def _both(self) -> tuple[OpticalImage, SarImage]:
        if not (self._optical and self._sar):
            raise OptionsError(f"A shift is found between optical and SAR files, but there are none of {self.absent}.")
        return self._optical, self._sar

    def _coregister(self, how: Coregistration) -> None:
        """Tell the shift of SAR against optical, and move SAR if that is wanted."""
        _, sar = self._both()
        shift = self.estimate_shift()
        if how == "require" and not shift.accepted:
            raise InputError(
                f"--coreg require finds no certain shift between {sar.source.label} and the optical image "
                f"({shift.reason}) Give files of the same place and season, or use --coreg auto."
            )
        moves = [round(float(move), 2) for move in (shift.columns, shift.rows) if math.isfinite(move)]
        applied = shift.accepted and how in ("auto", "require")
        if applied:
            # What lies at a place on the moved grid comes to lie where the shift wants it.
            place = self.grid.transform @ Affine.translation(-moves[0], -moves[1])
            sar.move(GeoBox(self.grid.shape, place, self.grid.crs))
            self.decisions = [found for found in self.decisions if found.what not in ("overlap", "sar.resampling")]
            self.decisions += sar.describe_place()
        columns, rows = moves or (None, None)
        value = {"columns": columns, "rows": rows, "accepted": shift.accepted, "applied": applied}
        self.decisions.append(Decision("coreg", value, f"values: {shift.reason}"))
        if shift.accepted and not applied and math.hypot(*moves) > 0.5:
            self.warnings.append(
                f"SAR would have to move {moves[0]:+.2f} columns and {moves[1]:+.2f} rows to fit the optical image; "
                "--coreg auto does that."
            )


def _open_sources(
    optical: Paths | None, sar: Paths | None, options: SceneOptions, opened: ExitStack
) -> tuple[Source | None, Source | None, Decision | None]:
    """Open the files of both sensors, or of the only one, and say which of a product's zones was taken."""
    mask_errors = options.on_read_error == "mask"
    found = [] if optical is None else find_files(optical, "optical", options)
    alternatives = [replace(files, mask_errors=mask_errors) for files in found]
    sar_source = None
    if sar is not None:
        sar_source = Source(replace(find_files(sar, "sar", options)[0], mask_errors=mask_errors), opened)
    if not alternatives:
        return None, sar_source, None
    files, decision = choose_zone(alternatives, sar_source)
    return Source(files, opened), sar_source, decision


def _nothing(bands: int, window: Window) -> Float32:
    """Pixels of a sensor that is absent, shape (B, H, W), which take no memory and cannot be written to."""
    return np.broadcast_to(np.float32(np.nan), (bands, window.height, window.width))


def _keys(window: Window) -> Iterator[tuple[int, int]]:
    """Yield row and column of the blocks that a window needs."""
    rows = range(window.row // BLOCK, -(-(window.row + window.height) // BLOCK))
    columns = range(window.column // BLOCK, -(-(window.column + window.width) // BLOCK))
    return product(rows, columns)

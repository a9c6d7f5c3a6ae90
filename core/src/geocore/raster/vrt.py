"""Virtual rasters (VRT of GDAL): which files they name, found out and judged before GDAL opens them.

GDAL opens whatever a VRT names, with any of its drivers: a file of somebody else, an address, a program in Python. Here
it is read first, and refused where it has anything but what `gdalbuildvrt`, `gdal_translate`, `gdalwarp` and
`gdal_pansharpen` write about pixels of files that lie in its own folder or below a stated root
(`geocore.raster.paths`).

The XML is taken as GDAL takes it: names of elements and attributes in any case, and no sign of what its small parser
understands otherwise than others do (document types, CDATA, processing instructions, comments within a value).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn
from xml.parsers import expat

from geocore.errors import SceneError
from geocore.raster.grid import names_files
from geocore.raster.paths import VARIABLE, Location, check_named, is_remote, is_stated, redacted
from geocore.storage.special_files import open_regular

_MOST_BYTES: Final = 1 << 26
_MOST_SOURCES: Final = 100_000
_DEEPEST: Final = 64
"""Of elements, of which warped ones have a dozen."""
MOST_NESTED: Final = 8
"""Virtual rasters in virtual rasters."""

_ELEMENTS: Final = frozenset(
    """
    vrtdataset srs geotransform gcplist gcp metadata mdi overviewlist maskband vrtrasterband
    description unittype offset scale categorynames category colortable entry colorinterp nodatavalue hidenodatavalue
    histograms histitem histmin histmax bucketcount includeoutofrange approximate histcounts
    gdalrasterattributetable fielddefn name type usage row f
    simplesource complexsource averagedsource kernelfilteredsource nodatafrommasksource overview
    sourcefilename sourceband sourceproperties srcrect dstrect openoptions ooi nodata scaleoffset scaleratio lut
    exponent srcmin srcmax dstmin dstmax clip colortablecomponent usemaskband kernel size coefs maskvaluethreshold
    remappedvalue pixelfunctiontype pixelfunctionlanguage pixelfunctionarguments bufferradius sourcetransfertype
    skipnoncontributingsources
    pansharpeningoptions algorithm algorithmoptions weights resampling numthreads bitdepth panchroband spectralband
    spatialextentadjustment blockxsize blockysize
    gdalwarpoptions warpmemorylimit resamplealg workingdatatype option options sourcedataset bandlist bandmapping
    srcnodatareal srcnodataimag dstnodatareal dstnodataimag srcalphaband dstalphaband cutline cutlineblenddist
    transformer approxtransformer basetransformer maxerror maxerrorforward maxerrorreverse genimgprojtransformer
    srcgeotransform srcinvgeotransform dstgeotransform dstinvgeotransform srcgcptransformer gcptransformer order
    reversed refine minimumgcps tolerance srctpstransformer tpstransformer srcapproxerrorinpixel
    reprojecttransformer reprojectiontransformer sourcesrs targetsrs
    """.split()  # noqa: SIM905  # a hundred quotation marks would hide the words
)
"""What is known to name no file but in `_NAMES`. Among the others are parts of VRTRawRasterBand, grids of heights,
elevations for rational polynomials, arrays of places, and a dataset to write to."""
_ATTRIBUTES: Final = frozenset(
    """
    band binsize blockxsize blockysize buildtype c1 c2 c3 c4 coordinateepoch count dataaxistosrsaxismapping datatype
    domain dst dstband format gcpz id index info key line name normalized offset pixel projection rasterxsize
    rasterysize relativetovrt resampling row0min shared size src subclass tabletype type x xoff xsize y yoff ysize z
    """.split()  # noqa: SIM905
)
"""GDAL takes an attribute for a child of that name. Functions (`pixelfunctionarguments`) take any."""
_NAMES: Final = frozenset(("sourcefilename", "sourcedataset"))
_CRS: Final = frozenset(("srs", "sourcesrs", "targetsrs"))
_VALUES: Final = _NAMES | _CRS | {"pixelfunctionlanguage"}
"""Elements whose text is looked at."""
_SUBCLASSES: Final = frozenset(
    """
    vrtdataset vrtwarpeddataset vrtpansharpeneddataset
    vrtrasterband vrtsourcedrasterband vrtderivedrasterband vrtwarpedrasterband vrtpansharpenedrasterband
    """.split()  # noqa: SIM905
)
_NAMING_METADATA: Final = frozenset(("overview_file", "x_dataset", "y_dataset"))
"""Keys of metadata by which GDAL finds overviews and places of pixels in other files."""
_OPEN_OPTIONS: Final = frozenset(("num_threads", "overview_level"))
_CRS_TEXT: Final = re.compile(r"[A-Za-z_0-9]+\[|\+proj=|urn:ogc:def:crs:[\w:.]+$|[A-Za-z]+:[\w+]+$|$")
"""A CRS as WKT, as PROJ's parameters or by its code; GDAL also takes it from files and addresses."""

_ARCHIVE: Final = re.compile(r"/vsi(?:zip|gzip|tar|7z|rar)/(?!/?vsi|.*/vsi|\{)(.+)")
_ADDRESS: Final = re.compile(r"/vsicurl/(https?://.+)")
_BUCKET: Final = re.compile(r"/vsis3/(.+)")
_PAGE: Final = re.compile(r"GTIFF_DIR:(?:off:)?\d+:(.+)")
_SUBDATASET: Final = re.compile(r"(?:NETCDF|HDF5):\"?([^\":]+)\"?(?::[^\"]*)?")
_OTHER_SYNTAX: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+.-]+:|/vsi|[<{\"]|MEM:::")


@dataclass(frozen=True, slots=True)
class Named:
    """A file that a virtual raster names."""

    place: Location
    """The file, or its address; of an archive or a container the whole of it."""
    whole: bool = True
    """Whether the name is that of the file, and not of something within, which GDAL's drivers for containers read."""


def named_in(path: Path, *, folder: Path | None = None) -> tuple[Named, ...]:
    """The files that a virtual raster names, in its order and each once; they are not looked at.

    Args:
        path: of the VRT.
        folder: of the VRT that names this one: files there and below may be named. None: no other one names it, and its
            own folder counts.

    Raises:
        SceneError: it is no VRT or too large, has parts that are not read, or names a file elsewhere.
        SettingsError: a stated root is neither a whole path nor an address.
        OSError: it cannot be read.
    """
    real = Path(os.path.realpath(path))  # GDAL, too, goes by the folder of the file that a link leads to
    with open_regular(real) as file:
        text = file.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise SceneError(f"{path}: a virtual raster of more than {_MOST_BYTES >> 20} MiB: join its files in steps")
    found: dict[Named, None] = {}
    for name, relative in _Names(path).of(text):
        if relative and folder is not None and str(path) != str(real) and ".." in Path(name).parts:
            # GDAL takes away steps as they are written, also those that links made.
            raise SceneError(f"{path}: is named by way of a link or of '..', and names {name!r}: build it anew")
        named = _placed(name, real.parent if relative else Path(), path)
        if named not in found:
            _check_place(named, path, folder or real.parent)
            found[named] = None
            if len(found) > _MOST_SOURCES:
                raise SceneError(f"{path}: names more than {_MOST_SOURCES} files: join them in steps")
    return tuple(found)


def _check_place(named: Named, path: Path, folder: Path) -> None:
    if named.whole or is_stated(named.place):
        check_named(named.place, by=path, folder=folder)
        return
    raise SceneError(
        f"{path}: names a part of {redacted(named.place)}, and parts are read of files below a stated root only: if "
        f"you trust it, set {VARIABLE}={os.path.dirname(os.path.realpath(named.place))}"
    )


def _placed(name: str, folder: Path, by: Path) -> Named:
    """Where a name leads, as GDAL takes it."""
    if (found := _ADDRESS.fullmatch(name)) is not None:
        return Named(found[1])
    if (found := _BUCKET.fullmatch(name)) is not None:
        return Named(f"s3://{found[1]}")
    if (found := _PAGE.fullmatch(name)) is not None:
        return Named(folder / found[1])
    if (found := _SUBDATASET.fullmatch(name)) is not None:
        return Named(folder / found[1], whole=False)
    if (found := _ARCHIVE.fullmatch(name)) is not None:
        inner = folder / found[1]
        return Named(next((part for part in (inner, *inner.parents) if part.is_file()), inner), whole=False)
    if _OTHER_SYNTAX.match(name) and not re.match(r"[A-Za-z]:[\\/]", name):
        hint = f": write /vsicurl/ in front of it, and set {VARIABLE} to its folder" if is_remote(name) else ""
        raise SceneError(f"{by}: names {name[:80]!r}, which is no file: must be the path of a raster{hint}")
    return Named(folder / name)


@dataclass
class _Names:
    """Reads the XML of a virtual raster, as a stream."""

    path: Path
    found: list[tuple[str, bool]] = field(default_factory=list)
    """Names, and whether each is relative to the folder of the VRT."""
    _open: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    _text: list[str] = field(default_factory=list)
    level: int = 1
    """1 in the file, one more in each text that is a virtual raster itself."""
    _opaque: int = 0
    """How deep in metadata that hold XML of their own, which GDAL hands on as a text."""

    def of(self, text: bytes) -> list[tuple[str, bool]]:
        """All names.

        Raises:
            SceneError: it is no VRT, or has parts that are not read.
        """
        # GDAL takes bytes as they are, whatever encoding is declared.
        parser = expat.ParserCreate("utf-8")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text.append
        parser.CommentHandler = self._comment
        parser.StartDoctypeDeclHandler = lambda *_: self._refuse("a document type")
        parser.StartCdataSectionHandler = lambda: self._refuse("CDATA")
        parser.ProcessingInstructionHandler = lambda *_: self._refuse("processing instructions")
        try:
            parser.Parse(text, True)
        except (expat.ExpatError, ValueError) as error:
            raise SceneError(
                f"{self.path}: is no well-formed XML ({error}), and so no virtual raster: build it anew"
            ) from error
        return self.found

    def _refuse(self, what: str) -> NoReturn:
        raise SceneError(
            f"{self.path}: a virtual raster with {what}, which could lead anywhere, is not read: write it into a "
            "GeoTIFF if you trust it: gdal_translate IN OUT.tif"
        )

    def _start(self, tag: str, given: dict[str, str]) -> None:
        name = tag.lower()
        attributes = {key.lower(): value for key, value in given.items()}
        if len(self._open) > _DEEPEST:
            self._refuse(f"more than {_DEEPEST} levels")
        if self._opaque:
            self._opaque += 1
        elif not self._open and tag != "VRTDataset":
            raise SceneError(
                f"{self.path}: begins with <{tag[:40]}>, and a virtual raster with <VRTDataset>: check the file"
            )
        elif name not in _ELEMENTS:
            self._refuse(f"<{tag[:40]}>")
        elif self._open and self._open[-1][0] in _VALUES:
            self._refuse(f"elements in <{self._open[-1][0]}>")
        elif len(attributes) < len(given):
            self._refuse("an attribute twice")
        else:
            self._check_attributes(name, attributes)
            self._opaque = int(name == "metadata" and attributes.get("format") in ("xml", "json"))
        self._open.append((name, attributes))
        self._text.clear()

    def _check_attributes(self, name: str, attributes: dict[str, str]) -> None:
        for key in attributes:
            if key not in _ATTRIBUTES and name != "pixelfunctionarguments":
                self._refuse(f"an attribute {key[:40]}")
        if (subclass := attributes.get("subclass", "vrtdataset")).lower() not in _SUBCLASSES:
            self._refuse(subclass[:40])
        if name == "mdi" and attributes.get("key", "").lower() in _NAMING_METADATA:
            self._refuse(f"metadata {attributes['key']}")
        if name == "ooi" and attributes.get("key", "").lower() not in _OPEN_OPTIONS:
            self._refuse(f"the open option {attributes.get('key', '')[:40]}")
        if name in _NAMES and attributes.get("relativetovrt", "0") not in ("0", "1"):
            self._refuse(f"relativeToVRT={attributes['relativetovrt'][:40]!r}")
        self._check_crs(attributes.get("projection", ""))

    def _check_crs(self, text: str) -> None:
        if not _CRS_TEXT.match(text.strip()) or names_files(text):
            self._refuse(f"the CRS {text.strip()[:40]!r}")

    def _end(self, tag: str) -> None:
        name, attributes = self._open.pop()
        text = "".join(self._text)
        self._text.clear()
        if self._opaque:
            self._opaque -= 1
            return
        if name in _NAMES:
            self._name(text.lstrip(), attributes.get("relativetovrt") == "1")
        elif name in _CRS:
            self._check_crs(text)
        elif name == "pixelfunctionlanguage" and text.strip().lower() != "c":
            self._refuse(f"pixel functions in {text.strip()[:40]}")

    def _name(self, text: str, relative: bool) -> None:
        if "<VRTDataset" not in text:
            if text:
                self.found.append((text, relative))
            return
        if not text.startswith("<VRTDataset") or self.level == MOST_NESTED:
            self._refuse("another one in the name of a file")
        _Names(self.path, self.found, level=self.level + 1).of(text.encode())

    def _comment(self, text: str) -> None:
        if self._open and self._open[-1][0] in _VALUES:
            self._refuse("a comment within a value")

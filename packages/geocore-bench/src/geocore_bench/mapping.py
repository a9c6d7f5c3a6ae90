"""Map a whole scene, from a compressed GeoTIFF to a class GeoTIFF: rate, CPU seconds and memory.

With the free model everything but the model is measured, and with a U-Net what is left of the model's own rate.
"""

from __future__ import annotations

from pathlib import Path

from geocore_bench import mapping_command as command
from geocore_bench import mapping_ours as ours
from geocore_bench import mapping_peers as peers
from geocore_bench.environments import OURS
from geocore_bench.harness import Case, Contender
from geocore_bench.maps import Setting
from geocore_bench.scenes import make_big, make_cog, make_sparse

UNIT = "Mpx/s"
GEOCORE = "geocore"
GEOCORE_BF16 = "geocore, bfloat16"
GEOCORE_COG = "geocore, with overviews (COG)"
PARTS = "decode + cast + model + encode alone"
FORWARD = "the model's own forward"
TERRATORCH_WINDOWS = "terratorch tiled_inference, windows"
TERRATORCH_TENSOR = "terratorch tiled_inference, tensor"
MONAI = "MONAI SlidingWindowInferer, gaussian"
GEOAI = "geoai semantic_inference_on_geotiff"
MMSEG = "mmseg slide_inference"
BLENDING = (TERRATORCH_WINDOWS, TERRATORCH_TENSOR, MONAI, GEOAI)
"""Peers that blend what tiles say where they overlap."""

COMMAND = "floods-predict: three products and polygons"
BARE = "its network, bare class GeoTIFF"

FREE, UNET, SLIDE, LARGE, SPARSE = "free model", "U-Net", "free model, smaller scene", "larger scene", "sparse scene"
WHOLE = "through the command"


def sizes(quick: bool) -> dict[str, int]:
    """Rows and columns of the scene of each case."""
    if quick:
        return {FREE: 1500, UNET: 1500, SLIDE: 1500, LARGE: 2048, SPARSE: 4096, WHOLE: 1000}
    return {FREE: 10_000, UNET: 3000, SLIDE: 3000, LARGE: 20_000, SPARSE: 100_000, WHOLE: 5000}


def prepare(data: Path, quick: bool) -> None:
    """Make the scenes."""
    size = sizes(quick)
    for case in (FREE, UNET, SLIDE, WHOLE):
        make_cog(data, size[case])
    command.train(data)
    make_big(data, size[LARGE], size[FREE])
    make_sparse(data, size[SPARSE])


def cases(quick: bool) -> list[Case]:
    """The scene of the goals, the U-Net, and what memory larger scenes take."""
    size = sizes(quick)

    def cog(name: str) -> str:
        return f"cog_{size[name]}.tif"

    geocore = Contender(GEOCORE, OURS, ours.GeocoreMap())
    free = (
        geocore,
        Contender(GEOCORE_COG, OURS, ours.GeocoreMap(cog=True)),
        Contender(PARTS, OURS, ours.parts_alone),
        Contender(TERRATORCH_WINDOWS, "terratorch", peers.terratorch_windows),
        Contender(TERRATORCH_TENSOR, "terratorch", peers.terratorch_tensor),
        Contender(MONAI, "peers", peers.monai_gaussian),
        Contender(GEOAI, "geoai", peers.geoai_file),
        Contender("plain rasterio loop, no overlap", "peers", peers.plain_loop),
    )
    unet = (
        geocore,
        Contender(GEOCORE_BF16, OURS, ours.GeocoreMap(precision="bfloat16")),
        Contender(FORWARD, OURS, ours.forward_alone),
        Contender(TERRATORCH_WINDOWS, "terratorch", peers.terratorch_windows),
        Contender(MONAI, "peers", peers.monai_gaussian),
    )
    slide = (geocore, Contender(MMSEG, "peers", peers.mmseg_slide))
    whole = (Contender(BARE, OURS, ours.GeocoreMap()), Contender(COMMAND, OURS, command.command_map))
    floods = Setting(cog(WHOLE), "floods", tile_px=command.TILE_PX, overlap_px=command.OVERLAP_PX)
    # Blending weights differ, and near the border of a tile a U-Net sees other things; a 1 x 1 convolution does not.
    same, near = {"class1": 0.001}, {"class1": 0.05}
    return [
        Case(FREE, UNIT, Setting(cog(FREE)), free, threads=2, files=(cog(FREE),), agree=same),
        # On a CPU one tile at a time is the fastest for all.
        Case(UNET, UNIT, Setting(cog(UNET), "unet", batch=1), unet, threads=2, files=(cog(UNET),), agree=near),
        Case(WHOLE, UNIT, floods, whole, 3, threads=2, files=(cog(WHOLE),), agree=same),
        Case(SLIDE, UNIT, Setting(cog(SLIDE)), slide, 3, threads=2, files=(cog(SLIDE),), agree=same),
        Case(LARGE, UNIT, Setting(f"big_{size[LARGE]}.tif"), (geocore,), 1, threads=2),
        Case(SPARSE, UNIT, Setting(f"sparse_{size[SPARSE]}.tif", bands=4), (geocore,), 1, threads=2),
    ]

"""What was measured of reading videos."""

from figures.results import Results
from figures.text import machine, table

LOADERS = ("decord", "read_frames", "torchcodec")


def video_loading(results: Results) -> str:
    report = results.newest("video-loading")
    lines = []
    for row in report.data["rows"]:
        if row["op"] != "squares" or row["cores"] != 1:
            continue
        gap = row["difference"]["torchcodec"]
        lines.append(
            [f"`{row['source']}`, {row['frames']} frames", f"{row['size']}"]
            + [f"{row['ms_per_frame'][name]:.1f}" for name in LOADERS]
            + [f"{gap['max']:.0f}, {gap['mean']:.1f}"]
        )
    header = ["film, one core, ms per frame", "S", "decord", "sam2fast", "torchcodec"]
    return table([*header, "largest and mean difference of torchcodec's squares from decord's, of 255"], lines)


def video_loading_file(results: Results) -> str:
    return results.link(results.newest("video-loading"), "figures")


def loading_machine(results: Results) -> str:
    """Where videos were read."""
    report = results.newest("video-loading")
    return results.paragraph(f"Samples are in {results.link(report)}, from {machine(report.data['machine'])}.")


def torchcodec(results: Results) -> str:
    return str(results.newest("video-loading").data["machine"]["torchcodec"])

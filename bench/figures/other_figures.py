"""What was measured of streams, of reading videos, and of nano."""

from figures.charts import Chart, rounded
from figures.results import Results
from figures.text import counted, machine, table

LOADERS = ("decord", "read_frames", "torchcodec")
# Column -> what of a block of a soak it shows, and how.
SOAKED = {
    "processor's ms, half the frames below": ("processor_p50_ms", ".1f"),
    "99 % below": ("processor_p99_ms", ".1f"),
    "ms by the clock, half below": ("p50_ms", ".1f"),
    "99 % below ": ("p99_ms", ".1f"),
    "resident MiB": ("resident_mib", ".0f"),
    "tensors": ("tensors", ",d"),
    "their MiB": ("tensors_mib", ".1f"),
}


# ---- streams ----


def stream_memory(results: Results) -> str:
    report = results.newest("stream-memory")
    data = report.data
    height, width = data["frame"]
    stream, video = (list(data[way]["resident_mib"].items()) for way in ("stream", "video"))
    (first, at_first), (last, at_last), most = stream[0], stream[-1], max(mib for _, mib in stream)
    (video_first, video_at_first), (video_last, video_at_last) = video[0], video[-1]
    return results.paragraph(
        f"Measured with {data['model'].split('/')[-1]}, {counted(data['objects'], 'object')}, frames of "
        f"{width}×{height} ({results.link(report, 'samples')}, `bench/stream_memory.py`): the process has "
        f"{at_first:.0f} MiB resident after {first} frames, {most:.0f} MiB at most until frame {int(last):,}, and "
        f"{at_last:.0f} MiB at the end. The same frames as a video, with its whole history: {video_at_first:.0f} MiB "
        f"after {video_first} frames, {video_at_last:.0f} MiB after {video_last}."
    )


def stream_saved(results: Results) -> str:
    data = results.newest("stream-memory").data
    frames = max(map(int, data["video"]["resident_mib"]))
    return results.paragraph(
        f"Measured in the same run: the stream's file has {data['stream']['saved_mib']:.1f} MiB for "
        f"{counted(data['objects'], 'object')} of nano, whose memories are a sixteenth of those at 1024×1024; that of "
        f"the video, with all of {frames} frames, {data['video']['saved_mib']:.0f} MiB."
    )


def soak(results: Results) -> str:
    report = results.newest("soak")
    data, blocks = report.data, report.data["blocks"]
    length = blocks[0]["frame"]
    most = {key: max(block[key] for block in blocks) for key, _ in SOAKED.values()}
    named = {"the first": blocks[0], "the second": blocks[1], "the last": blocks[-1], "the most of any": most}
    rows = [
        [f"{name} {length:,}", *(f"{block[key]:{form}}" for key, form in SOAKED.values())]
        for name, block in named.items()
    ]
    different = data["different_answers"]
    same = "every one has the same answers, bit for bit" if different == 1 else f"{different} have different answers"
    said = results.paragraph(
        f"Measured with nano at {data['image_size']}×{data['image_size']} ({results.link(report, 'samples')}, "
        f"`bench/soak.py`), while the machine did other work, too, which the clock shows: {data['frames']:,} frames, "
        f"{data['objects']} objects one after the other, up to two at a time. Film and prompts repeat every "
        f"{data['period']} frames; of these {data['periods']} periods {same}."
    )
    return said + "\n\n" + table(["frames", *SOAKED], rows)


def stream_chart(results: Results) -> Chart:
    data = results.newest("stream-memory").data
    memory = {way: {int(t): mib for t, mib in data[way]["resident_mib"].items()} for way in ("stream", "video")}
    frames = sorted({t for curve in memory.values() for t in curve})
    series = {
        name: rounded([memory[way].get(t) for t in frames])
        for name, way in (("stream", "stream"), ("video with its whole history", "video"))
    }
    return Chart("Resident memory while tracking", "MiB", series, list(frames), x="frames")


# ---- reading videos ----


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


def torchcodec(results: Results) -> str:
    return str(results.newest("video-loading").data["machine"]["torchcodec"])


# ---- nano ----


def nano_heldout(results: Results) -> str:
    """A piece of a sentence."""
    report = results.newest("nano-heldout")
    found = report.data["results"]
    nano = found["nano"]
    return (
        f"a mean IoU of {nano['pictures']['one_click_miou']:.1f} by one click on pictures, and in video a J&F of "
        f"{nano['clips_click']['J&F']:.1f} from one click and {nano['clips_mask']['J&F']:.1f} from a mask (the first "
        f"mask kept still: {found['still']['clips']['J&F']:.1f}; {results.link(report, 'every figure')})"
    )


def nano_real(results: Results) -> str:
    """A piece of a sentence."""
    report = results.newest("nano-real")
    agreement = [picture["miou"] for picture in report.data["pictures"].values()]
    photographs = counted(len(agreement), "photograph")
    percent = f"{min(agreement):.0f} to {max(agreement):.0f} percent IoU"
    return f"{percent} on {photographs} ({results.link(report, 'every figure')})"


def nano_overfit(results: Results) -> str:
    """A piece of a sentence."""
    report = results.newest("nano-overfit")
    data, agreement = report.data, report.data["validation_on_the_same_clips"]["J&F"]
    return (
        f"loss {data['loss_at_10']:.1f} to {data['loss_at_end']:.2f}, J&F "
        f"{agreement:.1f} in {data['updates']:,} updates, {results.link(report, 'results')}"
    )


def nano(results: Results) -> str:
    """A table beside a model with drawn weights, and the first mask kept still."""
    trained, drawn = results.newest("nano-heldout"), results.newest("untrained-heldout")
    rows = []
    for name, report, subject in (("nano", trained, "nano"), ("drawn weights", drawn, "untrained")):
        found = report.data["results"][subject]
        values = (found["pictures"]["one_click_miou"], found["clips_click"]["J&F"], found["clips_mask"]["J&F"])
        rows.append([name, *(f"{value:.1f}" for value in values)])
    rows.append(["the first mask kept still", "", "", f"{trained.data['results']['still']['clips']['J&F']:.1f}"])
    header = ["", "pictures, one click: mean IoU", "clips, one click: J&F", "clips, a mask: J&F"]
    links = f"Percent; {results.link(trained, 'nano')}, {results.link(drawn, 'drawn weights')}."
    return table(header, rows) + "\n\n" + results.paragraph(links)


def loading_machine(results: Results) -> str:
    """Where videos were read."""
    report = results.newest("video-loading")
    return results.paragraph(f"Samples are in {results.link(report)}, from {machine(report.data['machine'])}.")

"""What was measured of streams: memory, saved states and a long run."""

from figures.charts import Chart, rounded
from figures.results import Results
from figures.text import counted, table

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

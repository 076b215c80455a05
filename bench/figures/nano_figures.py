"""What was measured of nano: of pictures and clips, made up and real, and of those that it learnt by heart."""

from figures.results import Results
from figures.text import counted, table


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

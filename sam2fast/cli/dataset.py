"""``sam2fast dataset``: data sets of masks in the layouts that are in use."""

import click

from sam2fast.cli.dataset_convert import convert
from sam2fast.cli.dataset_extract import extract
from sam2fast.cli.dataset_info import info
from sam2fast.cli.dataset_show import show


@click.group()
def dataset() -> None:
    """Data sets of masks: list what is in them, show it, convert them, extract frames of films.

    Layouts: sav (SA-V's JSON files beside films), sav-png (SA-V's folders of PNGs), davis (DAVIS, MOSE), ytvos
    (YouTube-VOS), coco-jsonl (a file of JSON lines for each video; also what track writes).
    """


for command in (info, show, convert, extract):
    dataset.add_command(command)

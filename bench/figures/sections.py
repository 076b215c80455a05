"""Every generated part of a document, and every chart, by name."""

from collections.abc import Callable

from figures import (
    approximation_figures,
    compile_figures,
    curve_figures,
    data_set_figures,
    difference_figures,
    gpu_figures,
    kernel_sections,
    loading_figures,
    mask_figures,
    measured,
    memory_trial_figures,
    nano_figures,
    own_mask_figures,
    recipe_figures,
    serve_figures,
    stream_figures,
    suite_figures,
    summary_figures,
)
from figures.charts import Chart
from figures.results import Results

SECTIONS: dict[str, Callable[[Results], str]] = {
    "summary": summary_figures.summary,
    "set-image": measured.set_image,
    "video": measured.video,
    "long-video": measured.long_video,
    "seen-difference": difference_figures.seen_difference,
    "encoder": measured.encoder,
    "masks-ratio": mask_figures.masks_ratio,
    "automatic-masks": mask_figures.automatic_masks,
    "stream-memory": stream_figures.stream_memory,
    "stream-saved": stream_figures.stream_saved,
    "soak": stream_figures.soak,
    "video-loading": loading_figures.video_loading,
    "video-loading-file": loading_figures.video_loading_file,
    "video-loading-machine": loading_figures.loading_machine,
    "torchcodec": loading_figures.torchcodec,
    "nano": nano_figures.nano,
    "nano-heldout": nano_figures.nano_heldout,
    "nano-real": nano_figures.nano_real,
    "nano-overfit": nano_figures.nano_overfit,
    "suite": suite_figures.suite,
    "transformers": suite_figures.transformers,
    "curves": curve_figures.curves,
    "many-objects": curve_figures.many_objects,
    "compile-modes": compile_figures.compile_modes,
    "approximations": approximation_figures.approximations,
    "evaluation": data_set_figures.evaluation,
    "scaling": data_set_figures.scaling,
    "empty-jobs": data_set_figures.empty_jobs,
    "training-memory": recipe_figures.training_memory,
    "own-masks": own_mask_figures.own_masks,
    "memory-trial": memory_trial_figures.memory_trial,
    "memory-trial-pictures": memory_trial_figures.memory_trial_pictures,
    "memory-trial-films": memory_trial_figures.memory_trial_films,
    "serve-load": serve_figures.serve_load,
    "gpu": gpu_figures.gpu,
    "gpu-state": gpu_figures.gpu_state,
    **kernel_sections.SECTIONS,
}


def charts(results: Results) -> dict[str, Chart]:
    """Every chart that the sections refer to, by the name of its file."""
    drawn = {
        "set-image": measured.set_image_chart(results),
        "video": measured.video_chart(results),
        "automatic-masks": mask_figures.automatic_masks_chart(results),
        "stream-memory": stream_figures.stream_chart(results),
    }
    if suite := results.find("suite"):
        drawn |= suite_figures.suite_charts(suite, "suite", "on a CPU")
    if transformers := results.find("transformers"):
        drawn |= suite_figures.suite_charts(transformers, "transformers", "on a CPU")
    if curves := results.find("curves"):
        drawn |= curve_figures.curve_charts(curves, "curves")
    if modes := results.find("compile-modes"):
        drawn["compile-modes"] = compile_figures.compile_chart(modes)
    return drawn | gpu_figures.gpu_charts(results)

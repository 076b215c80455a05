"""Maps earlier names of sam2fast's modules, classes and functions to current names, for old imports and pickles."""

# Earlier module -> current module. Submodules move with their package. A submodule that also got another name needs an
# entry below the package's current name.
MOVED = {
    "sam2fast.cli.image_names": "sam2fast.io.image_names",
    "sam2fast.engine.encoders": "sam2fast.engine.plans.encoders",
    "sam2fast.engine.memory_plan": "sam2fast.engine.plans.memory",
    "sam2fast.engine.parts": "sam2fast.engine.unmodified",
    "sam2fast.engine.perceiver": "sam2fast.engine.plans.perceiver",
    "sam2fast.engine.plan": "sam2fast.engine.plans",
    "sam2fast.engine.recorded": "sam2fast.engine.replay",
    "sam2fast.engine.repvit": "sam2fast.engine.plans.repvit",
    "sam2fast.io.mask_formats": "sam2fast.results.formats",
    "sam2fast.mask_formats": "sam2fast.results",
    "sam2fast.results.coco_video": "sam2fast.results.coco",
    "sam2fast.results.writers": "sam2fast.results.image_writers",
    "sam2fast.tracking.records": "sam2fast.tracking.object_results",
    "sam2fast.tracking.session_api": "sam2fast.tracking.predictor_methods",
    "sam2fast.tracking.steps": "sam2fast.tracking.step_runner",
    "sam2fast.video_results": "sam2fast.results",
}
# Earlier names that documents contained. The first import of a module, and each use of another name, gives a
# DeprecationWarning.
DOCUMENTED = (
    "sam2fast.mask_formats",
    "sam2fast.modeling.sam2_base.HypothesisSelection",
    "sam2fast.video_results",
)
# Current module -> earlier attribute -> full current name. The module had the attribute at its current or earlier name.
RENAMED: dict[str, dict[str, str]] = {
    "sam2fast.engine.replay": {
        "Recorded": "sam2fast.engine.replay.GraphCalls",
        "RecordingPool": "sam2fast.engine.replay.GraphPool",
        "recorded_of": "sam2fast.engine.replay.graph_calls_of",
    },
    "sam2fast.modeling.sam2_base": {"HypothesisSelection": "sam2fast.modeling.sam2_base.MaskChooser"},
    "sam2fast.tracking.object_results": {"ObjectRecord": "sam2fast.tracking.object_results.ObjectResults"},
    "sam2fast.tracking.predictor_methods": {"SessionMethods": "sam2fast.tracking.predictor_methods.PredictorMethods"},
    "sam2fast.tracking.session": {"SelectionWatch": "sam2fast.tracking.settings.SelectionWatch"},
    # Pickled predictors contain the class Steps. Its attributes are not used anymore.
    "sam2fast.tracking.step_runner": {"Steps": "types.SimpleNamespace"},
}

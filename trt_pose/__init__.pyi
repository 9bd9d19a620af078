from . import deploy as deploy, models as models
from ._version import __version__ as __version__
from .attachment import AttachOptions as AttachOptions, attach as attach
from .benchmark import BenchOptions as BenchOptions, bench as bench
from .builder.build import build_engine as build_engine
from .builder.options import BuildOptions as BuildOptions
from .builder.prepare import QuantizeRequest as QuantizeRequest
from .choices import (
    CalibrationMethod as CalibrationMethod,
    DetectionOutputFormatMode as DetectionOutputFormatMode,
    ExportQuantizationMode as ExportQuantizationMode,
    ExportTargetBackend as ExportTargetBackend,
    Models as Models,
)
from .comparison import compare as compare
from .errors import (
    CalibrationError as CalibrationError,
    CheckpointError as CheckpointError,
    EngineError as EngineError,
    ExportError as ExportError,
    MissingDependencyError as MissingDependencyError,
    PoseError as PoseError,
    RunnerError as RunnerError,
    SourceError as SourceError,
    TrainingError as TrainingError,
    UsageError as UsageError,
)
from .evaluation import evaluate as evaluate
from .export import convert_to_onnx as convert_to_onnx
from .images.synthetic import SyntheticPeople as SyntheticPeople
from .predictor import PosePredictor as PosePredictor
from .quantization import (
    CalibrationOptions as CalibrationOptions,
    QuantizeOptions as QuantizeOptions,
    SelectiveQuantizer as SelectiveQuantizer,
    quantize as quantize,
)
from .results.detections import DetectionResult as DetectionResult, Detections as Detections
from .results.poses import PoseResult as PoseResult, Poses as Poses
from .runtime import Runner as Runner, open_runner as open_runner
from .skeleton import Skeleton as Skeleton
from .spec import Letterbox as Letterbox, ModelSpec as ModelSpec
from .training import TrainData as TrainData, TrainOptions as TrainOptions, train as train
from .trt.compile_plugins import get_include as get_include

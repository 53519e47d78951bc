from .estimator import CRClassifier as CRClassifier
from .estimator import CRRegressor as CRRegressor
from .modeling import CRClassifierOutput as CRClassifierOutput
from .modeling import CRConfig as CRConfig
from .modeling import CRForAudioClassification as CRForAudioClassification
from .modeling import CRForFeatureClassification as CRForFeatureClassification
from .modeling import CRForImageClassification as CRForImageClassification
from .modeling import CRForMultipleChoice as CRForMultipleChoice
from .modeling import CRForSequenceClassification as CRForSequenceClassification
from .modeling import CRForTokenClassification as CRForTokenClassification
from .modeling import CRHead as CRHead
from .modeling import CRLayer as CRLayer
from .modeling import CRSentenceHead as CRSentenceHead
from .modeling import StaticEmbeddingConfig as StaticEmbeddingConfig
from .modeling import StaticEmbeddingModel as StaticEmbeddingModel
from .training import DREG as DREG
from .training import CRTrainer as CRTrainer
from .training import CRTrainingArguments as CRTrainingArguments
from .training import add_lora as add_lora
from .training import lora_config as lora_config
from .training import merge_lora as merge_lora

__version__: str

def register_auto_classes() -> None: ...

from .card import write_card as write_card
from .demo import serve as serve
from .demo import write_space as write_space
from .graph import export_graph as export_graph
from .publish import dry_run as dry_run
from .publish import publish_run as publish_run
from .publish import publish_trainer as publish_trainer
from .upload import check_access as check_access

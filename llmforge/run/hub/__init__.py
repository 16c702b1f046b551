"""Upload to the Hugging Face hub: what goes out, how, and what is remembered of it.

In: a run folder and an `Order` (where to, as whom, what). Out: one commit in a repository, and an
entry in the run folder's `push.json`. Read `pushing.py` first: it makes a parcel (`parcel.py`),
sends it (`sending.py`) and writes the entry (`record.py`). `background.py` does so beside a
training, `permission.py` asks before one whether it will be allowed.

Nothing here fails a run: what goes wrong is a diagnostic, and can be repeated by
`llmforge push REF`.
"""

from llmforge.run.hub.background import BackgroundPush
from llmforge.run.hub.order import Order, order_of
from llmforge.run.hub.permission import check_push
from llmforge.run.hub.pushing import push

__all__ = ["BackgroundPush", "Order", "check_push", "order_of", "push"]

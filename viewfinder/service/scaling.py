"""When replicas are added and removed: by the texts and images that wait.

Serve's controller runs the policy. Serve pickles this module's functions by value, so it may import nothing of
viewfinder, which the controller's node need not have.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

# The metric that replicas report.
PENDING = "pending_items"


def scale_by_items(context: "AutoscalingContext") -> tuple[float, dict[str, Any]]:
    """The number of replicas for all texts and images, or for the requests if there are more of them.

    Serve's own policy counts a request with 64 images as one.
    """
    items = sum((context.aggregated_metrics or {}).get(PENDING, {}).values())
    return max(items, context.total_num_requests) / context.config.get_target_ongoing_requests(), {}

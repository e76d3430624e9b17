"""Judge what was measured: `Policy` + `RunRecord` -> `GateResult`, without torch and without touching the disk.

| outcome | when |
|---|---|
| PASS | the one-sided confidence limit reaches the threshold |
| FAIL | the opposite one-sided limit misses it |
| INCONCLUSIVE | neither, or the number is a bound in the other direction, too few samples, or a weak probe |
| NOT-RUN | nothing was measured at the setting asked for |
| ERROR | the probe failed, or the rule does not say which number it means |

Exit codes: 2 when a counted rule is ERROR, else 1 when one FAILs, else 3 when one is INCONCLUSIVE or NOT-RUN and the
policy does not let that by, else 0. A rule of level `warn` counts only under `fail_on = "warn"`. Waived verdicts keep
their outcome but do not count.

Each PASS holds at the policy's confidence, and since all rules must pass, so does the whole. The chance of some false
FAIL grows with the number of rules; it is not corrected for (Holm's method would do it).
"""

from audit.gate.known_metrics import check_policy
from audit.gate.policy_file import load_policy
from audit.gate.verdicts import judge

__all__ = ["check_policy", "judge", "load_policy"]

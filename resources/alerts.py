"""Where a failed run is told to somebody."""

import json
import logging
import urllib.request

import dagster as dg

_log = logging.getLogger("worldloop.alerts")


class Alerts(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Posts one JSON object an alert to a webhook, and always logs it.

    Attributes:
        webhook_url: http or https address; empty means that alerts are logged only.
        timeout_s: How long the webhook may take.
    """

    webhook_url: str = ""
    timeout_s: float = 5.0

    def send(self, title: str, **facts: str) -> bool:
        """Tell about a failure; an unreachable webhook is logged, never raised.

        Returns:
            Whether a webhook took the alert.
        """
        record = {"title": title, **facts}
        _log.error("alert %s", json.dumps(record, sort_keys=True))
        if not self.webhook_url.startswith(("http://", "https://")):
            return False
        request = urllib.request.Request(
            self.webhook_url,
            data=json.dumps(record).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as answer:
                return bool(answer.status < 300)
        except OSError as error:
            _log.warning("alert webhook did not answer: %s", error)
            return False

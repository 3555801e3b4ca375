import http.server
import json
import logging
import socket
import threading

import pytest

from resources.alerts import Alerts

LOOPBACK = "127.0.0.1"


@pytest.fixture
def webhook():
    """A real server on loopback that keeps what was posted; `status` is what it answers."""

    class Webhook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.posts.append((self.headers["Content-Type"], json.loads(body)))
            self.send_response(self.server.status)
            self.end_headers()

        def log_message(self, *words):
            pass

    with http.server.HTTPServer((LOOPBACK, 0), Webhook) as server:
        server.posts, server.status = [], 200
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def address(server):
    return f"http://{LOOPBACK}:{server.server_port}/alerts"


def test_a_webhook_takes_the_alert(webhook):
    assert Alerts(webhook_url=address(webhook)).send("run failed", run_id="r1", partition="tokyo")

    assert webhook.posts == [
        ("application/json", {"title": "run failed", "run_id": "r1", "partition": "tokyo"})
    ]


def test_a_webhook_that_refuses_is_logged_and_never_raised(webhook, caplog):
    webhook.status = 500

    assert not Alerts(webhook_url=address(webhook)).send("run failed")
    assert "500" in caplog.text


def test_an_unreachable_webhook_is_logged_and_never_raised(caplog):
    with socket.socket() as nobody_listens:
        nobody_listens.bind((LOOPBACK, 0))
        url = f"http://{LOOPBACK}:{nobody_listens.getsockname()[1]}"

        assert not Alerts(webhook_url=url, timeout_s=1.0).send("run failed")
    assert "did not answer" in caplog.text


@pytest.mark.parametrize("url", ["", "file:///etc/passwd"])
def test_without_a_webhook_the_alert_stands_in_the_log(url, caplog):
    with caplog.at_level(logging.ERROR, logger="worldloop.alerts"):
        assert not Alerts(webhook_url=url).send("run failed", run_id="r1")

    assert '"run_id": "r1"' in caplog.text

"""An OpenAI-compatible server process that is slow, refuses, breaks off or talks nonsense: `python judge_server.py KIND [SECONDS]`.

KIND honest: says CORRECT if the answer between the tags is "good"; compares: if it is the reference, letter by letter; strict: refuses
fields that are not OpenAI's. Prints its port; GET /seen says what it was asked.
"""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KIND, SECONDS = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
seen = {"asked": 0, "at_once": 0, "most_at_once": 0, "keys": [], "bodies": []}
lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/seen":
            self.reply(200, seen)
        elif self.path == "/v1/models" and KIND != "no models":
            wanted = KIND != "keyed" or self.headers.get("authorization") == "Bearer sesame"
            self.reply(200 if wanted else 401, {"data": [{"id": "m"}]})
        else:
            self.reply(503, {})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with lock:
            seen["asked"] += 1
            seen["at_once"] += 1
            seen["most_at_once"] = max(seen["most_at_once"], seen["at_once"])
            seen["keys"].append(self.headers.get("authorization"))
            seen["bodies"].append(body)
            count = seen["asked"]
        try:
            time.sleep(SECONDS)
            self.say(body, count)
        finally:
            with lock:
                seen["at_once"] -= 1

    def say(self, body, count):
        text = body["messages"][-1]["content"]
        reference, answer = (text.partition(f"<{tag}>\n")[2].partition(f"\n</{tag}>")[0] for tag in ("reference", "answer"))
        verdict = "CORRECT" if answer == (reference if KIND == "compares" else "good") else "INCORRECT"
        if KIND == "strict" and not set(body) <= {"model", "messages", "temperature", "max_tokens", "top_p"}:
            self.reply(400, {"error": "unrecognized argument"})
        elif (
            KIND in ("honest", "strict", "compares", "keyed")
            or (KIND == "recovers" and count > 2)
            or (KIND == "mumbles first" and "one word only" in text)
        ):
            self.reply(200, chat(f"They were compared.\n\n**Final verdict: {verdict}**"))
        elif KIND in ("mumbles", "mumbles first"):
            self.reply(200, chat("As the values differ, one may ask whether CORRECT is a word."))
        elif KIND == "cut":
            self.reply(200, chat("INCORRECT", "length"))
        elif KIND == "no json":
            self.reply(200, "<html>CORRECT</html>")
        elif KIND == "no choices":
            self.reply(200, {"choices": []})
        elif KIND == "breaks off":
            self.send_response(200)
            self.send_header("content-length", "100000")
            self.end_headers()
            self.wfile.write(json.dumps(chat("CORRECT")).encode())
            self.close_connection = True
        else:
            self.reply({"overloaded": 429, "too long": 400}.get(KIND, 500), {})

    def reply(self, status, body):
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def chat(content, finish="stop"):
    return {"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": finish}]}


class Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass  # whoever asked did not wait for the answer


server = Server(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()

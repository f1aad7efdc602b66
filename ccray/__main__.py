"""The command line: selects a recipe and a root, and walks the corridor in order.

    ccray run --recipe tiny                           every stage, each continuing where it stopped
    ccray caption --recipe tiny train.steps=100       one stage; `key.sub=value` overrides a setting
    ccray status --root runs/tiny                     what is done
    ccray show --recipe commoncanvas-s-c --origins    every setting and where it comes from
    ccray plan --recipe commoncanvas-s-c --gpus 128 --gpu-type a100    days, GPU-hours, dollars and bytes, before anything is bought
    ccray license "https://creativecommons.org/licenses/by/4.0/"
    ccray takedown --root runs/tiny --list FILE       take images down: key:, sha256:, url: or creator: a line
    ccray lineage KEY --root runs/tiny                where an image came from, and what used it
    ccray serve --recipe tiny                         the endpoint

Exit code 0: done. 1: failed after starting. 2: refused before any write. `show`, `plan`, `license`, `status`, `takedown`, `lineage` and a
finished stage import neither Ray nor torch.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import yaml

from ccray import components, config, licenses, probing, recipes, storage, takedowns
from ccray.config import STAGE_SECTIONS, Recipe
from ccray.interfaces import Failed, Refused
from ccray.storage import Manifest, Root

log = logging.getLogger("ccray")
# Libraries speak when something is wrong; workers inherit this.
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
SHORT = {
    "source": "catalog.source",
    "policy": "catalog.policy",
    "license": "catalog.license",
    "limit": "catalog.limit",
    "blocklist": "catalog.blocklist",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    log.setLevel(logging.INFO)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv[:1] == ["license"] and argv[1:] not in (["-h"], ["--help"]):  # a licence text may begin with "-"
            return _license(argv[2:] if argv[1:2] == ["--"] else argv[1:])
        arguments, words = _parser().parse_known_args(argv)
        unknown = [word for word in words if word.startswith("-")]
        if unknown:
            raise Refused(f"unknown option {unknown[0]}: see `ccray {arguments.command} --help`")
        return COMMANDS[arguments.command](arguments, words)
    except Refused as refusal:
        log.error("refused: %s", refusal)
        return 2
    except Failed as failure:
        log.error("failed: %s", failure)
        return 1
    except BrokenPipeError:  # the reader of a long answer, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        log.error("interrupted: run the same command again to continue")
        return 1


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="ccray", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in ("run", *STAGE_SECTIONS, "serve", "show", "plan", "status"):
        command = commands.add_parser(
            name, help=HELP[name], description=HELP[name], usage=f"ccray {name} --recipe NAME [options] [key.sub=value ...]"
        )
        command.add_argument("--recipe", metavar="NAME", help=f"one of {', '.join(recipes.RECIPES)}")
        command.add_argument("--root", metavar="URI", help="a path or s3://bucket/prefix; default runs/<recipe>")
        command.add_argument("--config", metavar="FILE", help="a YAML file of settings, read before the key.sub=value words")
        command.add_argument("--source", metavar="S", help="short for catalog.source: shapes, folder:PATH, table:FILE, flickr:FILE, ...")
        command.add_argument("--policy", metavar="P", help=f"short for catalog.policy: {', '.join(licenses.POLICIES)}")
        command.add_argument("--license", metavar="L", help="short for catalog.license: the licence of a whole folder")
        command.add_argument("--limit", metavar="N", type=int, help="short for catalog.limit: this many rows, drawn by their ids")
        command.add_argument("--blocklist", metavar="FILE", help="short for catalog.blocklist: sha256 or perceptual hashes, one a line")
        if name == "show":
            command.add_argument("--origins", action="store_true", help="say where each setting comes from")
        if name == "plan":
            _add_plan_options(command)
        if name == "publish":
            command.add_argument("--to", metavar="PLACE", help="push the folders: hf://ORG/NAME, hf://datasets/ORG/NAME or s3://bucket/prefix")
            command.add_argument("--public", action="store_true", help="make new hub repositories public; without it they are private")
        if name == "serve":
            command.add_argument("--model", action="append", default=[], metavar="ID=PATH_OR_HUB", help="serve this diffusers folder (repeatable)")
    license_command = commands.add_parser("license", help="what a licence text permits, one JSON object a line")
    license_command.add_argument("text", nargs="*", help="licence texts; without any, lines of standard input")
    takedown_command = commands.add_parser("takedown", help=HELP["takedown"], description=HELP["takedown"])
    takedown_command.add_argument("--root", metavar="URI", required=True, help="a path or s3://bucket/prefix")
    takedown_command.add_argument(
        "--list", metavar="FILE", required=True, help="a line each key:HEX16, sha256:HEX64, url:URL or creator:NAME; - for stdin"
    )
    takedown_command.add_argument("--reason", metavar="TEXT", help="kept with each line")
    takedown_command.add_argument("--purge", action="store_true", help="also take bytes, captions and latents out of every file under the root")
    lineage_command = commands.add_parser("lineage", help=HELP["lineage"], description=HELP["lineage"])
    lineage_command.add_argument("image", metavar="KEY", help="16 or 64 hex digits of the image's sha256, or the source's own id")
    lineage_command.add_argument("--root", metavar="URI", required=True, help="a path or s3://bucket/prefix")
    lineage_command.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def _add_plan_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--images", metavar="N", type=int, help="default: as many as the published model was trained on")
    command.add_argument("--gpus", metavar="K", type=int, help="how many GPUs every stage has")
    command.add_argument("--gpu-type", metavar="T", help="their kind, such as a100 or h200")
    command.add_argument("--dollars-per-gpu-hour", metavar="D", type=float, help="of one GPU; without it nothing is said of dollars")
    command.add_argument("--bytes-per-image", metavar="B", type=float, help="mean size of a file of the source")
    command.add_argument("--rates", metavar="FILE", help="your own table of measured rates, in the form of ccray/planning/rates.csv")
    command.add_argument("--json", action="store_true", help="one JSON object")


HELP = {
    "run": "walk the whole corridor and draw one picture through the endpoint",
    "catalog": "gather images that may be used, each with its licence",
    "caption": "telephone every image through the captioner",
    "encode": "turn every image into a latent",
    "train": "train the denoiser",
    "evaluate": "draw the prompts and measure the pictures",
    "publish": "write the model and dataset folders with their cards and attribution",
    "serve": "answer the OpenAI Images API",
    "show": "print a recipe",
    "plan": "say what a recipe will take: days, GPU-hours, dollars and bytes, from measured rates",
    "status": "say what a root holds",
    "takedown": "take images down: every reader leaves them out from then on",
    "lineage": "say where an image came from, and which captions, latents and checkpoints used it",
}


PAGES = {"caption": "captions/report.html"}  # that a stage writes after its tables


def _recipe(arguments: argparse.Namespace, words: list[str], default: str | None = None) -> tuple[Recipe, Root]:
    base = _named(arguments.recipe or default)
    root = Root(arguments.root or f"runs/{base.name}")
    root.check_writable()
    if "RAY_ADDRESS" in os.environ:  # a submitted job, or a driver beside a cluster
        from ccray.sharded import refuse_unshared_root

        refuse_unshared_root(root)
    try:
        asked = _with_settings(base, arguments, words)
    except Refused:  # words may speak of captioners that only the root knows
        known = storage.adopt(root, base)
        asked = _with_settings(base.model_copy(update={"caption": known.caption}), arguments, words)
    return _with_settings(storage.adopt(root, asked), arguments, words), root


def _named(name: str | None) -> Recipe:
    if name is None:
        raise Refused(f"--recipe is missing: expected one of {', '.join(recipes.RECIPES)}")
    return recipes.named(name)


def _with_settings(base: Recipe, arguments: argparse.Namespace, words: list[str]) -> Recipe:
    """The recipe with what a file, the short options and the words say, in this order."""
    shorts = [f"{key}={json.dumps(value)}" for short, key in SHORT.items() if (value := getattr(arguments, short)) is not None]
    try:
        text = Path(arguments.config).read_text() if arguments.config else None
    except OSError as error:
        raise Refused(f"--config {arguments.config} cannot be read: {error.strerror}") from None
    return config.build(base, [*shorts, *words], text)


def _stage(arguments: argparse.Namespace, words: list[str]) -> int:
    recipe, root = _recipe(arguments, words)
    _run_stage(arguments.command, recipe, root)
    return 0


def _run(arguments: argparse.Namespace, words: list[str]) -> int:
    recipe, root = _recipe(arguments, words)
    for name in STAGE_SECTIONS:  # refuse what cannot be continued before starting anything
        components.check(recipe, name)
        for stage in storage.stages_of(recipe, name):
            storage.state(root, stage)
    for name in STAGE_SECTIONS:
        _run_stage(name, recipe, root)
    _first_picture(recipe, root)
    log.info("done. Look at %s; serve it with: ccray serve --recipe %s --root %s", root.path("evaluation/contact_sheet.png"), recipe.name, root.uri)
    return 0


def _run_stage(name: str, recipe: Recipe, root: Root) -> None:
    components.check(recipe, name)
    stages = storage.stages_of(recipe, name)
    finished = [storage.state(root, stage) == "finished" for stage in stages]
    if name == "publish":  # it sees for itself what is left to do: images may have been taken down since
        from ccray.stages import publish

        if not all(finished):
            probing.check(root)
        log.info("publish: finished, %s", summary(publish.run(recipe, root)))
        return
    pages = [PAGES[name]] if name in PAGES else []
    if not all(finished) or not all(map(root.exists, pages)):
        storage.inputs(root, recipe, name)
        probing.check(root)
        log.info("%s: %s", name, ", ".join(root.path(stage.directory) for stage in stages))
        _runner(name)(recipe, root)
    if not stages:
        log.info("%s: nothing to do for this recipe", name)
    for stage, before in zip(stages, finished, strict=True):
        manifest = storage.read_manifest(root, stage.directory)
        assert manifest is not None
        label = name if len(stages) == 1 else stage.directory
        log.info("%s: finished%s, %s", label, " before" if before else "", summary(manifest))


def _runner(name: str) -> Callable[[Recipe, Root], object]:
    """A stage's `run`. Stages import Ray, and their workers torch: only when there is something to do."""
    run: Callable[[Recipe, Root], object]
    if name == "catalog":
        from ccray.stages.catalog import run
    elif name == "caption":
        from ccray.stages.caption import run
    elif name == "encode":
        from ccray.stages.encode import run
    elif name == "train":
        from ccray.stages.train import run
    else:
        from ccray.stages.evaluate import run
    return run


def _publish(arguments: argparse.Namespace, words: list[str]) -> int:
    """The stage, which sees for itself what is left to do, then the push."""
    recipe, root = _recipe(arguments, words)
    from ccray.publishing import push
    from ccray.stages import publish

    targets = push.targets(arguments.to, recipe.publish.parts) if arguments.to else []
    _run_stage("publish", recipe, root)
    publish.push(root, targets, arguments.public)
    return 0


def _first_picture(recipe: Recipe, root: Root) -> None:
    """One picture drawn over HTTP: the end of the corridor, seen working."""
    place = "published/first_picture.png"
    if root.exists(place):
        log.info("serve: drew %s before", root.path(place))
        return
    from ccray.stages import serve

    root.write(place, serve.one_picture(recipe, root))
    log.info("serve: drew %s over HTTP", root.path(place))


def _serve(arguments: argparse.Namespace, words: list[str]) -> int:
    recipe, root = _recipe(arguments, words, default="tiny" if arguments.model else None)
    models: dict[str, str] = {}
    for text in arguments.model:
        name, equals, place = text.partition("=")
        if not (name and equals and place):
            raise Refused(f"--model {text!r} is not a model: expected ID=PATH_OR_HUB, such as mine=runs/tiny/published/model")
        models[name] = place
    from ccray.stages import serve

    serve.run(recipe, root, models)
    return 0


def _show(arguments: argparse.Namespace, words: list[str]) -> int:
    recipe = _with_settings(_named(arguments.recipe), arguments, words)
    values = recipe.model_dump(mode="json")
    if not arguments.origins:
        if recipe.name in recipes.SCORES:
            print(f"# {recipe.name} as published: {recipes.SCORES[recipe.name]}")
        print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), end="")
        return 0
    origins = recipes.origins(recipe)
    settings = config.flatten(values)
    for key, value in settings.items():
        print(f"{key:<42} {origins[key]:<16} {json.dumps(value, ensure_ascii=False)}")
    return 0


def _plan(arguments: argparse.Namespace, words: list[str]) -> int:
    recipe = _with_settings(_named(arguments.recipe), arguments, words)
    from ccray.planning import estimate, rates, telling

    images = recipes.IMAGES.get(recipe.name) if arguments.images is None else arguments.images
    given = {"--images": images, "--gpus": arguments.gpus, "--gpu-type": arguments.gpu_type}
    missing = [option for option, value in given.items() if value is None]
    if images is None or missing:
        raise Refused(f"{missing[0]} is missing: ccray plan --recipe {recipe.name} --images N --gpus K --gpu-type T")
    asked = estimate.Asked(images, arguments.gpus, arguments.gpu_type.lower(), arguments.dollars_per_gpu_hour, arguments.bytes_per_image)
    found = estimate.plan(recipe, asked, rates.read(arguments.rates or rates.PUBLISHED))
    print(json.dumps(telling.as_json(found), indent=2) if arguments.json else "\n".join(telling.table(found)))
    return 0


def _status(arguments: argparse.Namespace, words: list[str]) -> int:
    _refuse_words("status", words)
    root = Root(arguments.root or f"runs/{arguments.recipe or 'tiny'}")
    directories = storage.stage_directories(root)
    if not directories:
        print(f"{root.uri}: nothing here yet")
    for directory in directories:
        manifest = storage.read_manifest(root, directory)
        assert manifest is not None
        stopped = manifest.status == "running" and not storage.is_held(root, directory)  # by a kill, or a failure
        print(f"{manifest.stage:<9} {'stopped' if stopped else manifest.status:<9} {directory:<32} {summary(manifest)}")
    from ccray.governance import holding

    gone = takedowns.load(root)
    for one in holding.held(root, frozenset(gone.keys.to_pylist()), frozenset(gone.row_ids.to_pylist())):
        print(one.line())
    return 0


def _takedown(arguments: argparse.Namespace, words: list[str]) -> int:
    _refuse_words("takedown", words)
    from ccray.governance import takedown

    lines = takedown.read_list(arguments.list)
    root = Root(arguments.root)
    root.check_writable()
    takedown.run(root, lines, arguments.reason, arguments.purge, print)
    manifest = storage.read_manifest(root, "catalog")
    if manifest is not None and manifest.status == "finished":
        from ccray.data.index.report import write_report

        write_report(root, config.CatalogConfig.model_validate(manifest.config["catalog"]))
        print("catalog/report.html: written anew without them")
    from ccray.data.captioning import report

    if report.write_anew(root):
        print("captions/report.html: written anew without them")
    return 0


def _lineage(arguments: argparse.Namespace, words: list[str]) -> int:
    _refuse_words("lineage", words)
    from ccray.governance import lineage

    found = lineage.of(Root(arguments.root), arguments.image)
    if arguments.json:
        print(json.dumps(found.json(), indent=2, ensure_ascii=False, default=str))
    else:
        lineage.tell(found, print)
    return 0


def _refuse_words(command: str, words: list[str]) -> None:
    if words:
        raise Refused(f"{command} takes no settings: got {words[0]!r}")


def summary(manifest: Manifest) -> str:
    """A manifest in half a line."""
    parts = [f"{manifest.rows:,} rows"] if manifest.rows else []
    parts += [f"{count:,} {reason}" for reason, count in sorted(manifest.counts.items())]
    if manifest.finished_at:
        parts.append(f"at {manifest.finished_at}")
    return ", ".join(parts) or "no rows yet"


def _license(texts: list[str]) -> int:
    """One JSON object for each text, in ASCII: whatever the text holds, it is one line for every reader."""
    lines = (text.encode("utf-8", "surrogateescape") for text in texts) if texts else (line.rstrip(b"\r\n") for line in sys.stdin.buffer)
    for line in lines:
        text = line.decode("utf-8", "replace")
        print(json.dumps({"input": text} | asdict(licenses.parse(text))), flush=True)
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace, list[str]], int]] = {
    "run": _run,
    **dict.fromkeys(STAGE_SECTIONS, _stage),
    "publish": _publish,
    "serve": _serve,
    "show": _show,
    "plan": _plan,
    "status": _status,
    "takedown": _takedown,
    "lineage": _lineage,
}


if __name__ == "__main__":
    sys.exit(main())

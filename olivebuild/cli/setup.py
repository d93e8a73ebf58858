"""init and schema."""

from __future__ import annotations

import json

import click

from olivebuild.cli.location import recipe_location
from olivebuild.cli.options import recipe_options
from olivebuild.core import text


@click.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors.

    \b
    olivebuild schema > olivebuild.recipe.schema.json
    """
    from olivebuild.recipe.schema import recipe_schema

    click.echo(json.dumps(recipe_schema(), indent=2))


@click.command()
@recipe_options
@click.option("--model", required=True, help="A Hugging Face folder, hf:ID, or gguf:FILE.")
@click.option("--data", required=True, help="A jsonl, json, csv, tsv or parquet file.")
@click.option("--force", is_flag=True, help="Overwrite a recipe that is there.")
@click.pass_context
def init(ctx: click.Context, model: str, data: str, force: bool) -> None:
    """Write a recipe for a model and a data file.

    \b
    olivebuild init --model hf:Qwen/Qwen2.5-0.5B-Instruct --data data/rows.jsonl
    """
    from olivebuild.recipe import scaffold

    folder, name = recipe_location(ctx)
    file, notes = scaffold.write_recipe(folder, name, model, data, force)
    for note in notes:
        click.echo(f"note: {text.clean(note)}")
    click.echo(f"wrote {file}; next: olivebuild plan")

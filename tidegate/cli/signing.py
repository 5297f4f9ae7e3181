"""`tidegate models sign` and `tidegate models verify`: who made a package, and whether it is still what they made."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from tidegate.cli.located_package import ModelOrPackage, VersionIfModel, located
from tidegate.cli.options import DEFAULT_STORE, Store
from tidegate.cli.output import Json, show
from tidegate.cli.sign_key import KEY_PASSWORD, key_password
from tidegate.packaging.format.package import VerifiedPackage, inspect_package
from tidegate.packaging.format.signing import check_signature, sign_package
from tidegate.packaging.format.signing_bundle import signer_of


def sign(
    package: Annotated[Path, typer.Argument(help="The package's directory.")],
    key: Annotated[Path, typer.Option(help=f"Private key, PEM, of the curve P-256; its password in {KEY_PASSWORD}.")],
    as_json: Json = False,
) -> None:
    """Sign a package: every file, with an elliptic-curve key. Register it afterwards."""
    signature = sign_package(package, key, key_password())
    signer = signer_of(inspect_package(package), where=f"package {package}")
    show(
        {"path": str(package.resolve()), "signature": str(signature.resolve()), "signed_by": signer},
        as_json=as_json,
        render=lambda console: console.print(f"[green]signed[/green]  {escape(str(package))} by key {signer}", soft_wrap=True),
    )


def verify(
    model: ModelOrPackage,
    version: VersionIfModel = None,
    public_key: Annotated[Path | None, typer.Option(help="Public key, PEM, of who must have signed it.")] = None,
    store: Store = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Check every file of a version or package against its digest, and with a public key who signed it."""
    with located(model, version, store) as (path, facts):
        found = inspect_package(path)
        if public_key is not None:
            check_signature(found, public_key, where=f"package {model}")
        result = {**facts, **_findings(found, proven=public_key is not None, where=f"package {model}")}

    def render(console: Console) -> None:
        what = f"{result['name']} version {result['version']}" if "version" in result else str(result["path"])
        size = f"{result['files']} files, {result['bytes'] / 1e6:.2f} MB"
        console.print(f"[green]valid[/green]  {escape(what)}: {size}, schema {result['schema_version']}", soft_wrap=True)
        console.print(f"digest     {result['digest']}", soft_wrap=True)
        console.print(f"signature  {_told(result)}", soft_wrap=True)

    show(result, as_json=as_json, render=render)


def _findings(found: VerifiedPackage, *, proven: bool, where: str) -> dict[str, Any]:
    files = found.manifest.files
    signer = None if found.signature is None else signer_of(found, where=where)
    return {
        "name": found.manifest.name,
        "files": len(files),
        "bytes": sum(entry.size for entry in files.values()),
        "schema_version": found.schema_version,
        "digest": found.digest,
        "signature": "none" if signer is None else "verified" if proven else "not verified",
        "signed_by": signer,
        "valid": True,
    }


def _told(result: dict[str, Any]) -> str:
    told = {
        "none": "none",
        "verified": f"[green]valid[/green], by key {result['signed_by']}",
        "not verified": f"says key {result['signed_by']}; to prove it, give --public-key",
    }
    return told[str(result["signature"])]

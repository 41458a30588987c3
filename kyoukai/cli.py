"""
The command line: ``kyoukai run``, ``cert``, ``routes`` and ``version``.

Whatever is wrong ends with one line on standard error: exit status 2 for what was typed, 1 for
what happened then. An exception in the user's own code comes with its traceback before that line.
"""

from __future__ import annotations

import logging
import platform
import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kyoukai._version import __version__
from kyoukai.app import Kyoukai
from kyoukai.asphalt import find_components
from kyoukai.config import ServerConfig, check_keys
from kyoukai.exceptions import ConfigurationError, KyoukaiError, TargetError, UnknownKindError
from kyoukai.interfaces.hosted import name_of_application
from kyoukai.interfaces.recognition import recognise
from kyoukai.mount import Mount, find_application
from kyoukai.proxy import Proxy, is_upstream
from kyoukai.proxy_component import unfold
from kyoukai.route import WEBSOCKET
from kyoukai.server.address import Address
from kyoukai.server.loading import Application, load_yaml, parse_yaml
from kyoukai.server.runner import exit_within, run
from kyoukai.server.setup import set_up_logging
from kyoukai.server.tls import write_certificate
from kyoukai.targets import add_to_path, is_target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

__all__ = ("main",)

_LEVELS = ("debug", "info", "warning", "error", "critical")

#: What says where one component listens, or what its application is: it cannot be meant for
#: several.
_OF_ONE = ("bind", "tls_bind", "certfile", "keyfile", "interface", "factory")
#: Settings of proxies alone, which are keys of their components.
_OF_PROXIES = frozenset(Proxy.field_names()) - {"upstreams", *ServerConfig.field_names()}
#: Options that are keys of a component, and no settings.
_KEYS = ("interface", "factory")


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Run the command line, and exit.

    :param arguments: what was typed; by default, what the process was started with
    """
    try:
        status = cli.main(arguments, prog_name="kyoukai", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        status = 2
    except click.ClickException as error:
        status = _fail(error.format_message(), error.exit_code)
    except UnknownKindError as error:  # an option was left out
        status = _fail(str(error), 2)
    except KyoukaiError as error:
        _show_traceback(error)
        status = _fail(str(error), 1)
    except (click.Abort, KeyboardInterrupt):
        status = 130
    sys.exit(status)


def _fail(message: str, status: int) -> int:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    return status


def _show_traceback(error: KyoukaiError) -> None:
    """Show where the user's own code failed, without the frames of the machinery."""
    cause = error.__cause__
    if cause is None:
        return
    found = _users_frames(cause.__traceback__)
    if not logging.root.handlers:
        logging.basicConfig(format="%(message)s")
    logging.getLogger("kyoukai").error(
        "the application's own error", exc_info=(type(cause), cause, found)
    )


def _users_frames(traceback: TracebackType | None) -> TracebackType | None:
    frame = traceback
    while frame is not None:
        name = frame.tb_frame.f_globals.get("__name__", "")
        if name.partition(".")[0] not in ("asphalt", "asyncio", "importlib", "kyoukai"):
            return frame
        frame = frame.tb_next
    return traceback


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Serve Kyoukai applications."""


def _check_address(context: click.Context, option: click.Parameter, value: Any) -> Any:
    for text in value:
        try:
            Address.parse(text)
        except ConfigurationError as error:
            raise click.BadParameter(str(error), context, option) from None
    return value


def _check_root_path(context: click.Context, option: click.Parameter, value: Any) -> Any:
    try:
        ServerConfig(root_path=value or "")
    except ConfigurationError as error:
        raise click.BadParameter(str(error), context, option) from None
    return value


def _parse_settings(
    context: click.Context, option: click.Parameter, value: tuple[str, ...]
) -> dict[str, Any]:
    settings = {}
    try:
        for text in value:
            name, equals, content = text.partition("=")
            if not equals:
                raise ConfigurationError(f"{text!r} is not of the form NAME=VALUE")
            check_keys((name,), (*ServerConfig.field_names(), *_OF_PROXIES), "setting")
            settings[name] = parse_yaml(content, name)
        ours = {name: value for name, value in settings.items() if name not in _OF_PROXIES}
        ServerConfig.from_mapping(ours)
    except ConfigurationError as error:
        raise click.BadParameter(str(error), context, option) from None
    return settings


def _add_folders(target: str, app_dir: Path | None) -> None:
    """Let a target's modules be imported."""
    add_to_path(app_dir or Path())
    if app_dir is None and not is_target(target):
        add_to_path(Path(target).parent)


_app_dir = click.option(
    "--app-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder that modules are imported from; by default a YAML file's own, then this one.",
)
_service = click.option(
    "--service", metavar="NAME", help="Service of the YAML file to run; also ASPHALT_SERVICE."
)


@cli.command("run")
@click.argument("target")
@click.option(
    "--bind",
    multiple=True,
    metavar="ADDR",
    callback=_check_address,
    help="Listen here for HTTP/1.1 and HTTP/2; may be given several times.",
)
@click.option(
    "--tls-bind",
    multiple=True,
    metavar="ADDR",
    callback=_check_address,
    help="Listen here for HTTP/2 and HTTP/1.1 over TLS; may be given several times.",
)
@click.option("--certfile", metavar="FILE", help="Certificate chain for TLS, PEM.")
@click.option("--keyfile", metavar="FILE", help="Private key of the certificate, PEM.")
@click.option(
    "--interface",
    type=click.Choice(("auto", "kyoukai", "wsgi", "asgi", "rsgi", "ssgi", "proxy")),
    help="Kind of the application; auto, the default, finds out.",
)
@click.option("--factory", is_flag=True, default=None, help="TARGET is called for the application.")
@click.option(
    "--lifespan",
    type=click.Choice(("auto", "on", "off")),
    help="Whether an ASGI application gets lifespan events; auto: if it knows them.",
)
@click.option(
    "--root-path",
    metavar="PATH",
    callback=_check_root_path,
    help="Prefix that a proxy publishes this under.",
)
@click.option(
    "--loop",
    type=click.Choice(("auto", "asyncio", "uvloop")),
    default="auto",
    show_default=True,
    help="Event loop; auto is what the file says, else uvloop if it is installed.",
)
@_app_dir
@_service
@click.option("--log-level", type=click.Choice(_LEVELS, case_sensitive=False))
@click.option("--access-log/--no-access-log", default=None, help="Log each answer, or none.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_parse_settings,
    help="Any other setting of the server, or of a proxy; may be given several times.",
)
def run_command(
    target: str,
    loop: str,
    app_dir: Path | None,
    service: str | None,
    log_level: str | None,
    settings: dict[str, Any],
    **options: Any,
) -> int:
    """
    Run TARGET until it is told to stop.

    TARGET is module:attribute, an Asphalt YAML file, or the URL of a server that requests are
    passed on to (http://HOST:PORT, https://HOST:PORT or unix:PATH). ADDR is HOST:PORT, [V6]:PORT,
    unix:PATH or fd://N. What is given here comes before what the file says.
    """
    given = {name: value for name, value in options.items() if value not in (None, ())}
    _add_folders(target, app_dir)
    application = _find_application(target, service)
    set_up_logging(application.logging, log_level)
    _override(application, settings, given)
    outcome = run(application, loop)
    exit_within(outcome.seconds_left, outcome.status)
    return outcome.status


@cli.command("cert")
@click.argument(
    "folder", metavar="[DIR]", default=".", type=click.Path(file_okay=False, path_type=Path)
)
@click.option("--force", is_flag=True, help="Replace files that are there.")
def cert_command(folder: Path, force: bool) -> None:
    """Write a certificate for localhost and its key to DIR: localhost.pem, localhost-key.pem."""
    for path in write_certificate(folder, force):
        click.echo(path)


@cli.command("routes")
@click.argument("target")
@_app_dir
@_service
def routes_command(target: str, app_dir: Path | None, service: str | None) -> None:
    """Print the routing table of TARGET: module:attribute, an Asphalt YAML file, or a URL."""
    _add_folders(target, app_dir)
    application = _find_application(target, service)
    tables: list[tuple[str, list[tuple[str, ...]]]] = []
    made: dict[str, Any] = {}
    for _, config in find_components(application.component):
        if "upstreams" in config:
            config = unfold(config)
        named = config.get("app", "")
        app = find_application(named, bool(config.get("factory")), made)
        mounts = [Mount.from_setting(*entry) for entry in (config.get("mounts") or {}).items()]
        table = _title(app, named), sorted(_rows(app, named) + _mounted(app, mounts))
        if table not in tables:
            tables.append(table)
    if not tables:
        raise TargetError(f"{target!r} has no component that serves an application")
    for title, rows in tables:
        if len(tables) > 1:
            click.echo(f"{title}:")
        _print_table(rows)


@cli.command("version")
def version_command() -> None:
    """Print the versions of Kyoukai and of what it runs on."""
    click.echo(f"Kyoukai {__version__}")
    click.echo(f"{platform.python_implementation()} {platform.python_version()}")
    for name in ("asphalt", "h2", "httptools", "uvloop", "werkzeug"):
        try:
            click.echo(f"{name} {installed_version(name)}")
        except PackageNotFoundError:
            pass  # uvloop is an extra


# -- What to run ----------------------------------------------------------------------------------


def _find_application(target: str, service: str | None) -> Application:
    if is_upstream(target):
        return Application({"type": "kyoukai_proxy", "upstreams": target})
    if target.endswith((".yaml", ".yml")) or Path(target).is_file():
        if not Path(target).exists():
            raise click.UsageError(f"there is no file {target!r}")
        return load_yaml(Path(target), service)
    if not is_target(target):
        raise click.UsageError(
            f"{target!r} is no target; write module:attribute, the name of a YAML file, or the URL"
            " of a server"
        )
    return Application({"type": "kyoukai", "app": target})


def _override(
    application: Application, settings: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
    """Put the command line's settings, and its options, into the components' configurations."""
    typed = {name: f"--set {name}" for name in settings}
    typed |= {name: f"--{name.replace('_', '-')}" for name in options}
    if options.get("access_log") is False:
        typed["access_log"] = "--no-access-log"
    if not typed:
        return
    found = list(find_components(application.component))
    for name, option in typed.items():
        if not found:
            raise ConfigurationError(
                f"{option}: {application.source} names no component that serves an application"
            )
        if name in _OF_ONE and len(found) > 1:
            names = ", ".join(alias for alias, _ in found)
            raise ConfigurationError(
                f"{option}: {application.source} has several components ({names}); "
                "set it there for each"
            )
    for _, config in found:
        for name in _OF_PROXIES & settings.keys():
            if "upstreams" not in config:
                raise ConfigurationError(f"--set {name}: it is for proxies (upstreams)")
        _override_one(config, {**settings, **options})


def _override_one(config: dict[str, Any], settings: Mapping[str, Any]) -> None:
    fields = dict(config.get("settings") or {})
    for name, value in settings.items():
        if name in _KEYS or name in _OF_PROXIES:
            config[name] = value
            continue
        fields[name] = value
        if "upstreams" in config and name in Proxy.field_names():
            continue  # the proxy's own of that name stays
        config.pop({"certfile": "ssl_certfile", "keyfile": "ssl_keyfile"}.get(name, name), None)
    if "bind" in settings or "tls_bind" in settings:
        # All addresses at once: the file's others would come as a surprise.
        for name in ("ip", "port", "bind", "tls_bind"):
            config.pop(name, None)
            if name not in settings:
                fields.pop(name, None)
    if "certfile" in settings and "keyfile" in settings:
        config.pop("ssl", None)
    config["settings"] = fields


# -- Tables ---------------------------------------------------------------------------------------


def _title(app: Any, target: Any) -> str:
    return app.name if isinstance(app, Kyoukai) else _source(app, target)


def _source(app: Any, target: Any) -> str:
    if isinstance(target, str):
        return target
    if isinstance(target, Proxy):
        return f"proxy to {', '.join(target.upstreams)}"
    return app.name if isinstance(app, Kyoukai) else name_of_application(app)


def _rows(app: Any, target: Any) -> list[tuple[str, ...]]:
    if not isinstance(app, Kyoukai):  # it has its own ways, which nobody else knows
        recognise(app, _source(app, target))
        return [("/…", "any", _source(app, target), "any")]
    rows: list[tuple[str, ...]] = []
    maps = [(app.finalize(), "any")]
    if app.root.socket_map is not None:
        maps.append((app.root.socket_map, WEBSOCKET))
    for map_, no_methods in maps:
        for rule in map_.iter_rules():
            endpoint = getattr(rule.endpoint, "endpoint", rule.endpoint)
            methods = ", ".join(sorted(rule.methods or ())) or no_methods
            if not rule.build_only:  # which only stands for others
                rows.append((rule.rule, methods, str(endpoint), rule.host or "any"))
    return rows


def _mounted(app: Any, mounts: Sequence[Mount]) -> list[tuple[str, ...]]:
    found = [*mounts, *(app.mounts if isinstance(app, Kyoukai) else ())]
    return [(f"{each.prefix}/…", "any", _source(each.app, each.app), "any") for each in found]


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    table = [("path", "methods", "endpoint", "host"), *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())

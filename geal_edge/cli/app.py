"""The `geal-edge` command with all its commands; start.py is what runs it."""

from geal_edge.cli import (
    bench,
    build,
    check,
    compare,
    config,
    demo,
    doctor,
    erase,
    events,
    export,
    extract,
    inspect,
    list_,
    memory,
    pin,
    repair,
    report,
    run,
    select,
    status,
    upload,
    verify,
    why,
)
from geal_edge.cli.start import empty_app, main

__all__ = ["app", "main"]

app = empty_app()

MODEL, CHOOSE, VEHICLE, HELP = "Model", "Choose", "Vehicle", "Help"

app.command("export", rich_help_panel=MODEL)(export.export)
app.command("build", rich_help_panel=MODEL)(build.build)
app.command("verify", rich_help_panel=MODEL)(verify.verify)
app.command("bench", rich_help_panel=MODEL)(bench.bench)
app.command("inspect", rich_help_panel=MODEL)(inspect.inspect)
app.command("select", rich_help_panel=CHOOSE)(select.select)
app.command("compare", rich_help_panel=CHOOSE)(compare.compare)
app.command("report", rich_help_panel=CHOOSE)(report.report)
app.command("extract", rich_help_panel=CHOOSE)(extract.extract)
app.command("run", rich_help_panel=VEHICLE)(run.run)
app.command("status", rich_help_panel=VEHICLE)(status.status)
app.command("events", rich_help_panel=VEHICLE)(events.events)
app.command("list", rich_help_panel=VEHICLE)(list_.list_selected)
app.command("why", rich_help_panel=VEHICLE)(why.why)
app.command("upload", rich_help_panel=VEHICLE)(upload.upload)
app.command("pin", rich_help_panel=VEHICLE)(pin.pin)
app.command("erase", rich_help_panel=VEHICLE)(erase.erase)
app.command("check", rich_help_panel=VEHICLE)(check.check)
app.command("repair", rich_help_panel=VEHICLE)(repair.repair)
app.add_typer(memory.memory, name="memory", rich_help_panel=VEHICLE)
app.add_typer(config.config, name="config", rich_help_panel=VEHICLE)
app.command("doctor", rich_help_panel=HELP)(doctor.doctor)
app.command("demo", rich_help_panel=HELP)(demo.demo)

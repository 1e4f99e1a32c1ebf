"""What the doctor finds of what the user decides and the tournament says: configuration, keys, slots, alarms."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Iterator, Mapping, Sequence

from eraflow import alarms, environment
from eraflow.alarms import Alarm
from eraflow.config import suggestion
from eraflow.entries import Slot
from eraflow.errors import ClosedError, CredentialsError, EraflowError, RefusedError, TransientError
from eraflow.finding import Case, Finding, fail, ok, warn
from eraflow.rounds import duration_text
from eraflow.status import newer_version
from eraflow.weekly_config import CONFIG_FILE, read_configuration

SLOW_ANSWER_S = 5.0
SKEW_WARN_S, SKEW_FAIL_S = 30.0, 300.0
KEYS = ("NUMERAI_PUBLIC_ID", "NUMERAI_SECRET_KEY")
NEEDED_SCOPE = "upload_submission"
# One of them is enough to read back what was sent.
READING_SCOPES = ("read_submission_info", "read_user_info")
DANGEROUS = re.compile(r"stak|withdraw|transfer|wallet|payout", re.IGNORECASE)
TEST = Alarm(
    kind="test",
    round=None,
    title="eraflow: this is a test",
    body="""What happened:
- `eraflow doctor --alarm-test` was run
What it means: Alarms arrive here.
What to do now: Nothing.""",
)
NUMERAI = "on your account's page at numer.ai"


def configuration(case: Case) -> Iterator[Finding]:
    """The file is there and can be meant."""
    if case.path is None:
        do = "copy deployments/weekly.toml there and name your slots in it, or give --config"
        yield warn("configuration", f"there is none: {case.home / CONFIG_FILE} is not there", do)
        return
    try:
        found = read_configuration(case.path)
        if not found.slots:
            yield warn("configuration", f"{case.path} names no slots", "name them in its table [slots]")
            return
        from eraflow.request import make_request

        make_request(home=case.home, config_file=case.path)
    except EraflowError as error:
        yield fail("configuration", error.message, "correct it", error.exit_code)
        return
    named = ", ".join(f"{slot} = {recipe}" for slot, recipe in found.slots.items())
    yield ok("configuration", f"{case.path}: {named}")


def keys(case: Case) -> Iterator[Finding]:
    """The account's keys are there, and nobody else can read them."""
    path = case.home / environment.ENVIRONMENT_FILE
    in_file: dict[str, str] = {}
    try:
        environment.load(path, in_file)
    except EraflowError as error:
        yield fail("keys", error.message, "", error.exit_code)
    missing = [name for name in KEYS if not case.environ.get(name)]
    if missing:
        do = f"make a key {NUMERAI}, and write both lines NAME=VALUE to {path} (mode 600)"
        yield fail("keys", f"{' and '.join(missing)} must be set, however {_is_are(missing)} not", do, 4)
        return
    try:
        case.tournament.require_keys()
    except CredentialsError as error:
        yield fail("keys", error.message, "", error.exit_code)
        return
    if all(in_file.get(name) == case.environ[name] for name in KEYS):
        yield ok("keys", f"from {path} (mode {stat.S_IMODE(path.stat().st_mode):o})")
    else:
        yield ok("keys", f"from the environment; what is started by a service reads {path}")


def alarm(case: Case) -> Iterator[Finding]:
    """Somebody is told when a round goes wrong."""
    config = case.configuration.alarm
    try:
        alarms.check(config, case.environ)
    except EraflowError as error:
        yield fail("alarms", error.message, "", error.exit_code)
        return
    if not config.urls:
        do = "name an address in alarm.urls, as ntfys://ntfy.sh/a-topic-of-yours or mailtos://user:password@host"
        yield warn("alarms", "nobody is told of a round that fails, falls back or is missed", do)
        return
    yield from _read_by_others(case)
    beat = "a heartbeat is sent" if config.heartbeat_url else "no heartbeat is sent"
    yield ok("alarms", f"each address can be used ({len(config.urls)} in alarm.urls); {beat}")
    if case.alarm_test:
        yield _rung(case)


def _read_by_others(case: Case) -> Iterator[Finding]:
    """Addresses are secrets, and a configuration is no file that everybody keeps to himself."""
    config, path = case.configuration.alarm, case.path
    in_clear = any(text and not text.startswith("$") for text in (*config.urls, config.heartbeat_url))
    if path is None or not in_clear or os.name != "posix":
        return
    if all(stat.S_IMODE(one.stat().st_mode) & 0o077 for one in (path, path.resolve().parent)):
        do = f'run: chmod 600 {shlex.quote(str(path))}; or write "$NAME" there, and NAME=ADDRESS to eraflow.env'
        yield warn("alarms", f"{path} holds addresses, which are secrets, and others may read it", do)


def _rung(case: Case) -> Finding:
    config = case.configuration.alarm
    told = alarms.ring(TEST, config, case.environ)
    if told == len(config.urls):
        return ok("alarm test", f"taken by {told} of {len(config.urls)}; look whether it arrived")
    do = "the log above says which one did not take it; correct its address"
    return fail("alarm test", f"all {len(config.urls)} addresses must take it, however {told} did", do)


# What the tournament says


def tournament(case: Case) -> Iterator[Finding]:
    """It answers, and soon."""
    found = case.glance
    if isinstance(found, EraflowError):
        do = "check the network, a proxy (HTTPS_PROXY) and ERAFLOW_API_URL" if isinstance(found, TransientError) else ""
        yield fail("tournament", found.message, do, found.exit_code)
        return
    opened, took_s = found
    what = f"round {opened.number} is current" if opened else "no round is open"
    text = f"{case.public.url} answers in {1000 * took_s:.0f} ms; {what}"
    if took_s > SLOW_ANSWER_S:
        yield warn("tournament", text, "check the network: a round takes dozens of answers and a download of gigabytes")
    else:
        yield ok("tournament", text)


def clock(case: Case) -> Iterator[Finding]:
    """This machine's clock starts the attempts, whatever the tournament's says."""
    if not case.reached:
        yield _not_asked("clock")
        return
    skew_s = case.public.clock.skew_s
    side = "slow" if skew_s > 0 else "fast"
    text = f"it is {duration_text(skew_s)} {side}" if skew_s else "it agrees with the tournament's"
    do = "switch on time synchronisation, as with `timedatectl set-ntp true`: schedules go by this clock"
    if abs(skew_s) > SKEW_FAIL_S:
        yield fail("clock", text, do)
    else:
        yield warn("clock", text, do) if abs(skew_s) > SKEW_WARN_S else ok("clock", text)


def scopes(case: Case) -> Iterator[Finding]:
    """The keys are accepted, and may do what they must and nothing that costs money."""
    if not case.reached or not all(case.environ.get(name) for name in KEYS):
        yield _not_asked("scopes")
        return
    try:
        found = case.tournament.scopes()
    except CredentialsError as error:
        yield fail("scopes", error.message, f"make a new key {NUMERAI}", error.exit_code)
        return
    except (RefusedError, ClosedError) as error:
        yield warn("scopes", f"the tournament does not tell what the keys may do: {error.message}", "look there")
        return
    yield from judge_scopes(found)


def judge_scopes(found: Sequence[str]) -> Iterator[Finding]:
    """What the scopes of a key mean for a round."""
    do = f"make a key with it {NUMERAI}"
    missing = [] if NEEDED_SCOPE in found else [NEEDED_SCOPE]
    if not set(READING_SCOPES) & set(found):
        missing.append(" or ".join(READING_SCOPES))
    if missing:
        yield fail("scopes", f"the key must have {' and '.join(missing)}, however it has only {_listed(found)}", do, 4)
    else:
        yield ok("scopes", _listed(found))
    if "download_submission" not in found:
        text = "without download_submission a receipt is verified by the tournament's list, not byte for byte"
        yield warn("scopes", text, do)
    if risky := [scope for scope in found if DANGEROUS.search(scope)]:
        do = "make a key without it for eraflow, which never stakes, and delete this one"
        yield warn("scopes", f"the key may do more than a round needs: {', '.join(risky)}", do)


def slots(case: Case) -> Iterator[Finding]:
    """Every configured slot is the account's and free."""
    if not case.reached or not all(case.environ.get(name) for name in KEYS):
        yield _not_asked("slots")
        return
    try:
        yield from _judged_slots(case.configuration.slots, case.tournament.slots())
    except CredentialsError as error:
        yield fail("slots", error.message, "", error.exit_code)


def _judged_slots(wanted: Mapping[str, str], known: Mapping[str, Slot]) -> Iterator[Finding]:
    wrong = False
    for name in wanted:
        if name not in known:
            wrong = True
            near = suggestion(name, sorted(known)) if known else "; it has none"
            yield fail("slots", f"{name} is not one of this account's models{near}", "correct it in [slots]", 2)
        elif known[name].hosted:
            wrong = True
            do = "remove the model's upload at numer.ai, or choose another slot"
            yield fail("slots", f"{name} has a hosted model that submits for it", do, 2)
    if not wrong:
        yield ok("slots", _listed(list(wanted)) if wanted else f"none is configured, of {_listed(sorted(known))}")


def data_version(case: Case) -> Iterator[Finding]:
    """The configured data version is there, and there is no newer one."""
    if not case.reached:
        yield _not_asked("data version")
        return
    pinned, known = case.configuration.data_version, case.public.data_versions()
    if known and pinned not in known:
        do = f"set data_version to one of {', '.join(known)}"
        yield fail("data version", f"the tournament has no data version {pinned}", do, 2)
    elif newest := newer_version(pinned, known):
        do = f'read what changed, then set data_version = "{newest}": the next round trains on it'
        yield warn("data version", f"{pinned} is configured, and the tournament has {newest}", do)
    else:
        yield ok("data version", f"{pinned} is the newest")


def _not_asked(name: str) -> Finding:
    return warn(name, "not asked: the tournament was not reached, or there are no keys", "correct that first")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"


def _is_are(names: Sequence[str]) -> str:
    return "it is" if len(names) == 1 else "they are"

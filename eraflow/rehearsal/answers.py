"""What the local tournament answers to each root field, and to a whole query."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from eraflow.rehearsal.core import NOT_OPEN, Core
from eraflow.rehearsal.graphql import Field, GraphQLError, Operation, bind, canonical, check, parse, project
from eraflow.rehearsal.market_files import VERSION
from eraflow.rehearsal.schema import ROOTS, SCOPES_OF, TYPES
from eraflow.rehearsal.scoring import DayScore
from eraflow.rehearsal.state import TOURNAMENT, Slot, Submission, stamp
from eraflow.rehearsal.timetable import FIRST_NUMBER, SCORE_DAYS, ScheduledRound

Json = dict[str, Any]
USERNAME = "rehearsal"
LATEST_ROUNDS = 5
MULTIPLIERS = (("corr60", "CORR60", 3.0), ("mmc60", "MMC60", 15.0))


class Desk:
    """Answers GraphQL for one tournament at `url`."""

    def __init__(self, core: Core, url: str) -> None:
        self._core, self._url = core, url
        self._resolvers: Mapping[str, Callable[..., Any]] = {
            "rounds": self._rounds,
            "listDatasets": self._list_datasets,
            "dataset": self._dataset,
            "account": self._account,
            "apiTokenInfo": self._token,
            "model": lambda modelId=None: self._model(self._core.slot(modelId)),
            "submissions": lambda modelId=None: self._submissions(self._core.slot(modelId)),
            "submissionUploadAuth": self._upload_auth,
            "submissionDownloadAuth": self._download_auth,
            "submissionScores": self._scores,
            "createSubmission": self._create,
        }

    def answer(self, operation: Operation, variables: Mapping[str, Any], authorization: str | None) -> Json:
        """The JSON body for one operation; everything that is wrong with it stands in `errors`."""
        try:
            check(operation, ROOTS, TYPES, variables)
        except GraphQLError as error:
            return {"errors": [error.entry()]}
        data: Json = {}
        errors = []
        for asked in operation.fields:
            try:
                data[asked.key] = self._resolve(asked, operation, variables, authorization)
            except GraphQLError as error:
                data[asked.key] = None
                errors.append(GraphQLError(error.message, asked.key).entry())
        return {"data": data} | ({"errors": errors} if errors else {})

    def _resolve(
        self, asked: Field, operation: Operation, variables: Mapping[str, Any], authorization: str | None
    ) -> Any:
        name = canonical(asked.name)
        if name in SCOPES_OF:
            self._core.require_scope(authorization, *SCOPES_OF[name])
        return project(self._resolvers[name](**bind(asked.arguments, operation, variables)), asked.fields)

    # Rounds and files

    def _rounds(
        self, tournament: int | None = None, number: int | None = None, target: str | None = None,
        status: str | None = None, limit: int | None = None,
    ) -> list[Json]:  # fmt: skip
        if tournament not in (None, TOURNAMENT):
            return []
        if number == 0:
            current = self._core.current()
            if current is None:
                raise GraphQLError(NOT_OPEN)
            found = [self._round(current)]
        else:
            # A round that has not opened is told only to who asks for upcoming ones, with the announced time.
            newest = self._core.latest().number
            numbers = [newest + 1] if status == "UPCOMING" else range(newest, FIRST_NUMBER - 1, -1)
            wanted = [one for one in numbers if number in (None, one)][: None if status else limit]
            found = [self._round(self._core.timetable.round(one)) for one in wanted]
        found = [one for one in found if target in (None, one["target"]) and status in (None, one["status"])]
        return found[:limit]

    def _round(self, at: ScheduledRound) -> Json:
        now = self._core.now_utc()
        opened, resolved = at.opens_at_utc <= now, at.resolves_at_utc <= now
        status = "UPCOMING" if not opened else "RESOLVED" if resolved else "RESOLVING"
        return {
            "id": f"round-{at.number}",
            "tournament": TOURNAMENT,
            "number": at.number,
            "target": "ender",
            "status": "OPEN" if opened and now < at.ends_at_utc else status,
            "openTime": stamp(at.opens_at_utc if opened else at.scheduled_utc),
            "closeStakingTime": stamp(at.closes_at_utc),
            "closeTime": stamp(at.ends_at_utc),
            "scoreTime": stamp(at.scored_at_utc(1)),
            "resolveTime": stamp(at.resolves_at_utc),
            "resolvedGeneral": resolved,
            "resolvedStaking": resolved,
            "payoutFactor": "1.0",
            "stakeThreshold": None,
            "dataDatestamp": int(f"{at.scheduled_utc:%Y%m%d}"),
            "roundScoreConfigs": [_score_config(at, *one) for one in MULTIPLIERS],
        }

    def _list_datasets(self, round: int | None = None, tournament: int | None = None) -> list[str]:  # noqa: ARG002
        return self._core.data_files()

    def _dataset(self, filename: str, round: int | None = None, tournament: int | None = None) -> str:  # noqa: ARG002
        if not self._core.has_data_file(filename):
            raise GraphQLError(f"Dataset not found: {filename}")
        latest = self._core.latest().number
        number = latest if round in (None, 0) else int(round)
        if not FIRST_NUMBER <= number <= latest:
            raise GraphQLError(f"Round not found: {number}")
        return self._signed("GET", f"/files/{number}/{filename}")

    # The account

    def _account(self) -> Json:
        return {
            "id": "rehearsal-account",
            "username": USERNAME,
            "walletAddress": None,
            "availableNmr": "0",
            "email": "rehearsal@example.invalid",
            "mfaEnabled": False,
            "status": "VERIFIED",
            "insertedAt": self._core.state.begins_utc,
            "apiTokens": [self._token()],
            "models": [self._model(slot) for slot in self._core.state.slots],
        }

    def _token(self) -> Json:
        return {"name": "rehearsal", "publicId": self._core.keys.public_id, "scopes": list(self._core.state.scopes)}

    def _model(self, slot: Slot) -> Json:
        upload = {"id": f"pickle-{slot.id}", "filename": "model.pkl", "insertedAt": self._core.state.begins_utc}
        return {
            "id": slot.id,
            "name": slot.name,
            "username": slot.name,
            "tournament": slot.tournament,
            "submissions": self._submissions(slot),
            "latestSubmissions": self._latest_submissions(slot),
            "computePickleUpload": upload if slot.hosted else None,
            "v2Stake": None,
        }

    # Submissions

    def _submissions(self, slot: Slot) -> list[Json]:
        return [self._submission(one) for one in reversed(self._core.submissions(slot.id))]

    def _submission(self, one: Submission) -> Json:
        return {
            "id": one.id,
            "filename": one.filename,
            "insertedAt": one.inserted_at_utc,
            "selected": one.selected,
            "status": one.status,
            "errorInfo": one.error,
            "round": self._round(self._core.timetable.round(one.round)),
        }

    def _latest_submissions(self, slot: Slot) -> list[Json]:
        newest = self._core.latest().number
        counting = self._core.counting(slot.id)
        return [
            _latest(self._core.timetable.round(number), counting.get(number))
            for number in range(newest, max(FIRST_NUMBER, newest - LATEST_ROUNDS + 1) - 1, -1)
        ]

    def _scores(
        self, modelId: str | None = None, tournament: int | None = None, lastNRounds: int | None = None,
        distinctOnRound: bool | None = None, **asked: Any,
    ) -> list[Json]:  # fmt: skip
        slot, newest = self._core.slot(modelId), self._core.latest().number
        if tournament not in (None, slot.tournament):
            return []
        found = []
        for number, one in sorted(self._core.counting(slot.id).items(), reverse=True):
            if lastNRounds is not None and number <= newest - lastNRounds:
                break
            at = self._core.timetable.round(number)
            told = [_score(at, one, row) for row in self._core.scorer.rows(one, at, self._core.now_utc())]
            rows = [row for row in told if all(value in (None, row[name]) for name, value in asked.items())]
            found += rows[:1] if distinctOnRound else rows
        return found

    def _upload_auth(self, filename: str, tournament: int, modelId: str | None = None) -> Json:
        granted = self._core.grant_upload(filename, modelId, tournament)
        return {"filename": granted, "url": self._signed("PUT", f"/uploads/{granted}")}

    def _download_auth(self, id: str | None = None) -> Json:
        found = next((one for one in self._core.submissions() if one.id == id and one.sha256), None)
        if found is None:
            raise GraphQLError("Submission not found")
        url = self._signed("GET", f"/submissions/{found.id}/{found.filename}")
        return {"filename": found.filename, "url": url}

    def _create(self, filename: str, tournament: int, modelId: str | None = None, **_: Any) -> Json:
        return {"id": self._core.create(filename, modelId, tournament).id}

    def _signed(self, method: str, path: str) -> str:
        return self._url + self._core.sign(method, quote(path))


def read_operation(body: Any) -> tuple[Operation, Json]:
    """The operation and the variables of a request's JSON body. Raises `GraphQLError`."""
    query = body.get("query") if isinstance(body, dict) else None
    if not isinstance(query, str):
        raise GraphQLError("No query document supplied")
    variables = body.get("variables")
    return parse(query), variables if isinstance(variables, dict) else {}


def _score_config(at: ScheduledRound, name: str, display_name: str, multiplier: float) -> Json:
    return {
        "id": f"round-{at.number}-{name}",
        "scoreConfigId": f"config-{name}",
        "roundNumberStart": 1343,
        "roundNumberEnd": None,
        "name": name,
        "version": "v1",
        "displayName": display_name,
        "totalScoreDays": SCORE_DAYS,
        "returnsLagDays": 2,
        "dataDelayDays": 1,
        "universe": VERSION,
        "isCanonScore": name == "corr60",
        "isPayout": True,
        "scoringStart": stamp(at.scored_at_utc(1)),
        "scoringEnd": stamp(at.resolves_at_utc),
        "minMultiplier": multiplier,
        "maxMultiplier": multiplier,
        "defaultMultiplier": multiplier,
        "clipThreshold": 1.0,
        "stakeThreshold": None,
        "payoutFactor": 1.0,
    }


def _score(at: ScheduledRound, one: Submission, row: DayScore) -> Json:
    return {
        "roundId": f"round-{at.number}",
        "submissionId": one.id,
        "roundNumber": at.number,
        "roundResolveTime": stamp(at.resolves_at_utc),
        "roundScoreTime": stamp(at.scored_at_utc(1)),
        "roundCloseStakingTime": stamp(at.closes_at_utc),
        "value": row.value,
        "percentile": row.percentile,
        "displayName": row.name,
        "version": row.version,
        "date": stamp(at.scored_at_utc(row.day)),
        "day": row.day,
        "resolveDate": stamp(at.resolves_at_utc),
        "resolved": row.day == SCORE_DAYS,
    }


def _latest(at: ScheduledRound, one: Submission | None) -> Json:
    """Without times of day, as the API tells it; a round without a submission is listed too."""
    return {
        "roundNumber": at.number,
        "roundOpen": f"{at.opens_at_utc:%Y-%m-%d}",
        "roundCloseStaking": f"{at.closes_at_utc:%Y-%m-%d}",
        "roundClose": f"{at.ends_at_utc:%Y-%m-%d}",
        "filename": one.filename if one else None,
        "status": one.status if one else "none",
        "timestamp": one.inserted_at_utc[:10] if one else None,
    }

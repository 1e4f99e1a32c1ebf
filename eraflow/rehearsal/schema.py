"""The part of the tournament's GraphQL schema that clients ask for: object types, root fields, and who may ask."""

from __future__ import annotations

from collections.abc import Iterable

from eraflow.rehearsal.graphql import Root, Types


def _plain(names: str) -> dict[str, str | None]:
    return dict.fromkeys(names.split())


TYPES: Types = {
    "Round": {
        **_plain(
            "id tournament number target closeTime closeStakingTime openTime scoreTime resolveTime resolvedGeneral"
            " resolvedStaking payoutFactor stakeThreshold dataDatestamp status"
        ),
        "roundScoreConfigs": "RoundScoreConfig",
    },
    "RoundScoreConfig": _plain(
        "id scoreConfigId roundNumberStart roundNumberEnd name version displayName totalScoreDays returnsLagDays"
        " dataDelayDays universe isCanonScore isPayout scoringStart scoringEnd minMultiplier maxMultiplier"
        " defaultMultiplier clipThreshold stakeThreshold payoutFactor"
    ),
    "User": {
        **_plain("id username walletAddress availableNmr email mfaEnabled status insertedAt"),
        "models": "Model",
        "apiTokens": "ApiToken",
    },
    "ApiToken": _plain("name publicId scopes"),
    "Model": {
        **_plain("id name username tournament"),
        "submissions": "Submission",
        "latestSubmissions": "LatestSubmission",
        "computePickleUpload": "ComputePickleUpload",
        "v2Stake": "Stake",
    },
    "ComputePickleUpload": _plain("id filename insertedAt"),
    "Stake": _plain("status txHash"),
    "Submission": {**_plain("id filename insertedAt selected status errorInfo"), "round": "Round"},
    "LatestSubmission": _plain("roundNumber roundCloseStaking roundClose roundOpen filename status timestamp"),
    "UploadAuth": _plain("filename url"),
    "CreatedSubmission": _plain("id"),
    "SubmissionScore": _plain(
        "roundId submissionId roundNumber roundResolveTime roundScoreTime roundCloseStakingTime value percentile"
        " displayName version date day resolveDate resolved"
    ),
}

_INFO = ("read_user_info", "read_submission_info")
SCOPES_OF: dict[str, tuple[str, ...]] = {
    "account": ("read_user_info",),
    "apiTokenInfo": (),
    "model": _INFO,
    "submissions": _INFO,
    "submissionUploadAuth": ("upload_submission",),
    "createSubmission": ("upload_submission",),
    "submissionDownloadAuth": ("download_submission",),
}
"""Root fields that need the account's keys, and the scopes of which one is enough; the others are public."""


def _root(type_name: str | None, arguments: str = "", required: Iterable[str] = (), kind: str = "query") -> Root:
    return Root(kind, type_name, frozenset(arguments.split()), frozenset(required))


ROOTS: dict[str, Root] = {
    "rounds": _root("Round", "tournament number target status limit"),
    "listDatasets": _root(None, "round tournament"),
    "dataset": _root(None, "filename round tournament", ["filename"]),
    "account": _root("User"),
    "apiTokenInfo": _root("ApiToken"),
    "model": _root("Model", "modelId"),
    "submissions": _root("Submission", "modelId"),
    "submissionUploadAuth": _root("UploadAuth", "filename tournament modelId", ["filename", "tournament"]),
    "submissionDownloadAuth": _root("UploadAuth", "id"),
    "submissionScores": _root(
        "SubmissionScore",
        "modelId displayName version day resolved tournament lastNRounds distinctOnRound",
        ["modelId"],
    ),
    "createSubmission": _root(
        "CreatedSubmission",
        "filename tournament modelId triggerId source dataDatestamp",
        ["filename", "tournament"],
        kind="mutation",
    ),
}

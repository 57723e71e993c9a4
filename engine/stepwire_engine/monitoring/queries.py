"""PromQL that every board needs: rates, quantiles and ratios, summed over what the panel does not tell apart."""

from __future__ import annotations

from stepwire_engine.monitoring.panels import INTERVAL, Query


def rate(metric: str, by: str = "", labels: str = "") -> str:
    """Per second, summed over everything but the labels `by`."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{labels}[{INTERVAL}]))"


def quantiles(metric: str, labels: str = "", *, by: str = "", exemplars: bool = False) -> tuple[Query, ...]:
    """p50, p95 and p99 of a histogram."""
    grouped = f"le, {by}" if by else "le"
    legend = f"{{{{{by}}}}} " if by else ""
    return tuple(
        Query(
            f"histogram_quantile({share}, sum by ({grouped}) (rate({metric}_bucket{labels}[{INTERVAL}])))",
            f"{legend}p{round(share * 100)}",
            exemplars,
        )
        for share in ((0.99,) if by else (0.5, 0.95, 0.99))
    )


def ratio(part: str, whole: str) -> str:
    """0 while there is nothing at all."""
    return f"({part}) / ({whole} > 0) or vector(0)"

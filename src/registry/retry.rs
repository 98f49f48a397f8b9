//! What is tried again, when, and why.
//!
//! One predicate for statuses and one for broken connections; each answer that is worth another try has a
//! [`Reason`], each reason says why it is one. Everything else is final: certificates that do not verify, other
//! 4xx, and what a registry says it will not do.

use std::fmt;
use std::time::{Duration, SystemTime};

use reqwest::StatusCode;

use super::transport::TransportErrorKind;

/// How often and how patiently a request is tried again.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Tries in all, the first one included.
    pub attempts: u32,
    /// Upper bound of the first pause; each further bound is twice the one before.
    pub base: Duration,
    /// No pause is longer, unless the registry asks for it.
    pub cap: Duration,
    /// The longest `Retry-After` that is waited for; one that asks for more is final.
    pub longest_request: Duration,
}

impl Default for RetryPolicy {
    /// Six tries over about half a minute: a registry that restarts in a rolling update is back by then, and a
    /// wrong port number is not waited on for minutes.
    fn default() -> Self {
        Self {
            attempts: 6,
            base: Duration::from_millis(500),
            cap: Duration::from_secs(15),
            longest_request: Duration::from_secs(120),
        }
    }
}

impl RetryPolicy {
    /// One try and no other.
    pub fn never() -> Self {
        Self { attempts: 1, ..Self::default() }
    }

    /// How long to wait before try number `attempt + 2` (`attempt` failures lie behind the first one), or
    /// nothing if the registry asks for more time than anyone has.
    ///
    /// Exponential with full jitter: any time from nothing up to the bound, so that the parallel uploads of one
    /// build, and the builds of one pipeline, do not come back all at once. `fraction` is the throw of the dice.
    pub(crate) fn pause(&self, attempt: u32, fraction: f64, asked_for: Option<Duration>) -> Option<Duration> {
        let bound = self.base.saturating_mul(2_u32.saturating_pow(attempt)).min(self.cap);
        let jitter = bound.mul_f64(fraction.clamp(0.0, 1.0));
        match asked_for {
            None => Some(jitter),
            // Not earlier than asked, and not everyone at the same instant either.
            Some(asked) if asked <= self.longest_request => Some(asked + jitter.min(self.base)),
            Some(_) => None,
        }
    }
}

/// Why something is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// 408: the registry waited too long for us.
    RequestTimeout,
    /// 429: too many requests in too little time.
    Throttled,
    /// 5xx but 501 and 505: the registry or what lies before it is unwell.
    Server,
    /// No connection: a pod that restarts, a name that is not announced yet.
    Connect,
    /// The connection broke: a load balancer that drains, a pooled connection the server had closed.
    Broken,
    /// Nothing moved.
    Timeout,
    /// The bytes that arrived are not those of the digest: a proxy's cut-off or a broken cache. Worth one more try.
    Corrupt,
}

impl Reason {
    /// The reason to try again after an answer of `status`.
    pub(crate) fn for_status(status: StatusCode) -> Option<Self> {
        match status {
            StatusCode::REQUEST_TIMEOUT => Some(Self::RequestTimeout),
            StatusCode::TOO_MANY_REQUESTS => Some(Self::Throttled),
            // "I cannot" stays so.
            StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED => None,
            status if status.is_server_error() => Some(Self::Server),
            _ => None,
        }
    }

    /// The reason to try again after a request that got no answer.
    pub(crate) fn for_failure(kind: TransportErrorKind) -> Option<Self> {
        use TransportErrorKind as Kind;
        match kind {
            Kind::Resolve | Kind::Refused | Kind::Connect | Kind::Handshake => Some(Self::Connect),
            Kind::Broken => Some(Self::Broken),
            Kind::Timeout => Some(Self::Timeout),
            // A name that does not exist is a typing error far more often than a late announcement; a
            // certificate does not get better by asking again.
            Kind::UnknownHost
            | Kind::NotTls
            | Kind::Certificate
            | Kind::Tls
            | Kind::Source
            | Kind::Request => None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RequestTimeout | Self::Timeout => "timeout",
            Self::Throttled => "throttled",
            Self::Server => "server error",
            Self::Connect => "no connection",
            Self::Broken => "broken connection",
            Self::Corrupt => "corrupt data",
        })
    }
}

/// The time a `Retry-After` header asks for: seconds or an HTTP date (RFC 9110, section 10.2.3). A date in the
/// past asks for none.
pub(crate) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(value).ok()?;
    Some(SystemTime::from(date.timestamp()).duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(408, true)]
    #[case(429, true)]
    #[case(500, true)]
    #[case(502, true)]
    #[case(503, true)]
    #[case(504, true)]
    #[case(520, true)]
    #[case(501, false)]
    #[case(505, false)]
    #[case(400, false)]
    #[case(401, false)]
    #[case(403, false)]
    #[case(404, false)]
    #[case(413, false)]
    #[case(200, false)]
    fn statuses(#[case] status: u16, #[case] again: bool) {
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(Reason::for_status(status).is_some(), again);
    }

    #[rstest]
    #[case(TransportErrorKind::Certificate, false)]
    #[case(TransportErrorKind::Tls, false)]
    #[case(TransportErrorKind::NotTls, false)]
    #[case(TransportErrorKind::UnknownHost, false)]
    #[case(TransportErrorKind::Source, false)]
    #[case(TransportErrorKind::Refused, true)]
    #[case(TransportErrorKind::Resolve, true)]
    #[case(TransportErrorKind::Broken, true)]
    #[case(TransportErrorKind::Timeout, true)]
    fn failures(#[case] kind: TransportErrorKind, #[case] again: bool) {
        assert_eq!(Reason::for_failure(kind).is_some(), again);
    }

    /// Source: distribution/distribution#785.
    #[test]
    fn pauses_grow_to_the_cap_and_are_jittered_from_zero() {
        let policy = RetryPolicy::default();
        let bounds: Vec<u128> =
            (0..8).map(|attempt| policy.pause(attempt, 1.0, None).unwrap().as_millis()).collect();
        assert_eq!(bounds, [500, 1000, 2000, 4000, 8000, 15000, 15000, 15000]);
        assert_eq!(policy.pause(3, 0.0, None), Some(Duration::ZERO));
        assert_eq!(policy.pause(3, 0.25, None), Some(Duration::from_secs(1)));
        assert_eq!(policy.pause(u32::MAX, 1.0, None), Some(policy.cap));
    }

    #[test]
    fn a_registry_that_asks_for_time_gets_it_up_to_a_limit() {
        let policy = RetryPolicy::default();
        let minute = Duration::from_secs(60);
        assert_eq!(policy.pause(0, 0.0, Some(minute)), Some(minute));
        assert_eq!(policy.pause(5, 1.0, Some(minute)), Some(minute + policy.base));
        assert_eq!(policy.pause(0, 0.0, Some(Duration::from_secs(6 * 3600))), None);
    }

    /// Source: RFC 9110, section 10.2.3.
    #[rstest]
    #[case("7", Some(7))]
    #[case(" 0 ", Some(0))]
    #[case("Sun, 06 Nov 1994 08:50:37 GMT", Some(60))]
    #[case("Sun, 06 Nov 1994 08:00:00 GMT", Some(0))]
    #[case("-1", None)]
    #[case("soon", None)]
    fn reads_retry_after(#[case] header: &str, #[case] seconds: Option<u64>) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(retry_after(header, now), seconds.map(Duration::from_secs));
    }
}

//! Faults by the throw of a dice that is seeded: which request meets which fault depends on the seed, what is asked and
//! how often it was asked before, not on which of two parallel requests came first.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cofferdam::image::Digest;

use crate::faulty::http::{Answer, Exchange, Head, Reply};
use crate::faulty::registry::FakeRegistry;

/// Longer than [`super::hasty`] waits for anything.
const STALL: Duration = Duration::from_millis(900);

/// A throw of the dice: the same for the same words.
pub fn throw(seed: u64, words: &str) -> u64 {
    let digest = Digest::of(format!("{seed} {words}").as_bytes()).hex();
    u64::from_str_radix(&digest[..16], 16).unwrap()
}

/// A number from nothing up to one.
fn fraction(throw: u64) -> f64 {
    (throw >> 11) as f64 / (1_u64 << 53) as f64
}

/// What went wrong in one run, by kind.
#[derive(Clone, Default)]
pub struct Told(Arc<Mutex<BTreeMap<&'static str, usize>>>);

impl Told {
    fn tell(&self, kind: &'static str) {
        *self.0.lock().unwrap().entry(kind).or_default() += 1;
    }

    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        self.0.lock().unwrap().clone()
    }
}

/// The rule by which a registry fails.
pub struct Chaos {
    seed: u64,
    /// How many of a hundred requests fail, about.
    rate: f64,
    asked: Mutex<HashMap<String, u64>>,
    told: Told,
}

/// Kinds of faults that may befall a request, each as often as it stands here.
const OF_READS: [Fault; 14] = [
    Fault::Status,
    Fault::Status,
    Fault::Throttled,
    Fault::HangUp,
    Fault::Cut,
    Fault::Cut,
    Fault::WrongBytes,
    Fault::WrongBytes,
    Fault::WrongDigest,
    Fault::Expired,
    Fault::Slow,
    Fault::Longer,
    Fault::Refused,
    Fault::Stall,
];
const OF_WRITES: [Fault; 14] = [
    Fault::Status,
    Fault::Status,
    Fault::Throttled,
    Fault::HangUp,
    Fault::HangUp,
    Fault::AnswerLost,
    Fault::AnswerLost,
    Fault::DoneAndStatus,
    Fault::WrongDigest,
    Fault::Expired,
    Fault::Slow,
    Fault::Gone,
    Fault::Refused,
    Fault::Stall,
];

#[derive(Clone, Copy)]
enum Fault {
    /// 408, 500, 502, 503 or 504, before anything is done.
    Status,
    /// 429, with a time to wait or without.
    Throttled,
    /// A reset in the middle of the request's body.
    HangUp,
    /// An answer that ends early.
    Cut,
    /// One bit is another.
    WrongBytes,
    /// The answer names another digest than that of what was asked for or sent.
    WrongDigest,
    /// Every token is refused from now on.
    Expired,
    /// It takes a while.
    Slow,
    /// It takes too long.
    Stall,
    /// The answer says that it is longer than it is.
    Longer,
    /// It is done, and nobody hears of it.
    AnswerLost,
    /// It is done, and said to have failed.
    DoneAndStatus,
    /// The upload is not known any more.
    Gone,
    /// A refusal that asking again does not change.
    Refused,
}

impl Chaos {
    pub fn new(seed: u64, rate: f64, told: &Told) -> Self {
        Self { seed, rate, asked: Mutex::default(), told: told.clone() }
    }

    /// What happens to a request; nothing for most.
    pub fn act(&self, exchange: &mut Exchange<'_>, registry: &FakeRegistry) -> Option<Reply> {
        let words = self.words(exchange.head);
        if fraction(throw(self.seed, &format!("{words} whether"))) >= self.rate {
            return None;
        }
        let which = throw(self.seed, &format!("{words} which"));
        let is_read = matches!(exchange.head.method.as_str(), "GET" | "HEAD");
        let kinds = if is_read { &OF_READS } else { &OF_WRITES };
        let detail = throw(self.seed, &format!("{words} how"));
        Some(self.fail(kinds[(which % kinds.len() as u64) as usize], detail, exchange, registry))
    }

    /// A request, and the how many-th of its kind it is. Names of uploads are no part of it.
    fn words(&self, head: &Head) -> String {
        let path = head.path().split("upload-").next().unwrap_or_default();
        let words = format!("{} {path}", head.method);
        let mut asked = self.asked.lock().unwrap();
        let count = asked.entry(words.clone()).or_default();
        *count += 1;
        format!("{words} {count}")
    }

    fn fail(&self, fault: Fault, detail: u64, exchange: &mut Exchange<'_>, registry: &FakeRegistry) -> Reply {
        let pick = |from: &[u16]| from[(detail % from.len() as u64) as usize];
        let altered = |exchange: &mut Exchange<'_>, change: &dyn Fn(Answer) -> Answer| match registry
            .normal(exchange)
        {
            Reply::Answer(answer) => change(answer).into(),
            Reply::HangUp => Reply::HangUp,
        };
        let at = |length: usize| if length == 0 { 0 } else { detail as usize % length };
        match fault {
            Fault::Status => {
                self.told.tell("5xx, 408");
                drop(exchange.body(at(100_000)));
                Answer::error(pick(&[408, 500, 502, 503, 504]), "UNKNOWN", "unwell").into()
            }
            Fault::Throttled => {
                self.told.tell("429");
                let answer = Answer::error(429, "TOOMANYREQUESTS", "too much");
                match detail % 4 {
                    0 => answer.into(),
                    1 => answer.header("Retry-After", "1").into(),
                    2 => answer.header("Retry-After", "Sun, 06 Nov 1994 08:49:40 GMT").into(),
                    _ => answer.header("Retry-After", "7200").into(),
                }
            }
            Fault::HangUp => {
                self.told.tell("reset");
                let body = exchange.body(at(400_000)).unwrap_or_default();
                if let Some((_, id)) = exchange.head.path().rsplit_once('/') {
                    registry.keep_of_upload(id, &body);
                }
                Reply::HangUp
            }
            Fault::Cut => {
                self.told.tell("truncation");
                altered(exchange, &|answer| Answer { cut: Some(at(answer.body.len())), ..answer })
            }
            Fault::WrongBytes => {
                self.told.tell("wrong bytes");
                altered(exchange, &|mut answer| {
                    let place = at(answer.body.len());
                    // A registry that lies about itself as well cannot be told from one that is right.
                    let is_content = answer.headers.iter().any(|(name, _)| name == "Docker-Content-Digest");
                    if let Some(byte) = answer.body.get_mut(place).filter(|_| is_content) {
                        *byte ^= 1 << (detail % 8);
                    }
                    answer
                })
            }
            Fault::WrongDigest => {
                self.told.tell("wrong digest");
                altered(exchange, &|answer| {
                    answer.header("Docker-Content-Digest", Digest::of(&detail.to_le_bytes()).to_string())
                })
            }
            Fault::Expired => {
                self.told.tell("expired tokens");
                registry.expire_tokens();
                registry.normal(exchange)
            }
            Fault::Slow => {
                self.told.tell("slow");
                let pause = Duration::from_millis(detail % 60);
                altered(exchange, &|answer| Answer { pause, ..answer })
            }
            Fault::Stall => {
                self.told.tell("standstill");
                altered(exchange, &|answer| {
                    let cut = Some(at(answer.body.len())).filter(|_| !answer.body.is_empty());
                    Answer { pause: STALL, cut, ..answer }
                })
            }
            Fault::Longer => {
                self.told.tell("wrong length");
                altered(exchange, &|answer| Answer {
                    length: Some(answer.body.len() as u64 + 1 + detail % 1000),
                    cut: Some(answer.body.len()),
                    ..answer
                })
            }
            Fault::AnswerLost => {
                self.told.tell("lost answer");
                drop(registry.normal(exchange));
                Reply::HangUp
            }
            Fault::DoneAndStatus => {
                self.told.tell("done and 5xx");
                drop(registry.normal(exchange));
                Answer::new(pick(&[500, 502, 504])).into()
            }
            Fault::Gone => {
                self.told.tell("lost upload");
                drop(exchange.body(usize::MAX));
                Answer::error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload").into()
            }
            Fault::Refused => {
                self.told.tell("refusal");
                drop(exchange.body(usize::MAX));
                Answer::error(pick(&[400, 401, 403, 404]), "DENIED", "no").into()
            }
        }
    }
}

//! One call, as plain data: what was seen on the wire ([`CallFacts`]) and what it means ([`CallRecord`]).
//!
//! The data plane fills in [`CallFacts`] while bytes pass; `meter` alone turns them into one [`CallRecord`]; `export`
//! alone decides how a record is shown. Nothing here does I/O, is async, or holds a body, a header value or a key.

mod caller;
mod connection;
mod end;
mod facts;
mod key;
mod label;
mod money;
mod outcome;
mod record;
mod usage;

pub use caller::Caller;
pub use connection::{AcceptPause, ForwardRefusal, HandshakeEnd, Unread};
pub use end::End;
pub use facts::{
    CallFacts, CallId, ErrorFacts, GeneratedError, KeptHeader, KeyFacts, Limits, RateLimit, Reply, RequestFacts,
    ResponseFacts, TextSample, Timing, TraceContext, Unreadable, UsagePart,
};
pub use key::{ApiKey, Fingerprint, KeyPlace};
pub(crate) use label::label_enum;
pub use label::{LimitResource, Operation, Protocol, TokenType, UsageSource, Way};
pub use money::Money;
pub use outcome::{Fault, Finding, Outcome, Retry};
pub use record::{CallRecord, UnpricedReason};
pub use usage::Usage;

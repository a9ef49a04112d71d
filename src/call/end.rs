//! Who ended a call, and how.

use super::label_enum;

label_enum! {
    /// How the exchange ended on the wire. Decided once, by whichever side ended it first.
    End {
        /// The whole answer passed, with its protocol's terminal event where it has one.
        Complete = "complete",
        /// A 2xx stream stopped without its terminal event.
        Truncated = "truncated",
        /// The application went away first.
        ClientCancelled = "client_cancelled",
        /// The stream carried an error event.
        ErrorEvent = "error_event",
        /// Nothing arrived from the provider for longer than the idle timeout.
        IdleTimeout = "idle_timeout",
        /// No complete HTTP answer arrived: DNS, TCP, TLS, reset, read timeout.
        NoAnswer = "no_answer",
        /// The answer's head came but its (non-stream) body broke off.
        BodyError = "body_error",
        /// keytally answered itself: unknown prefix, refused target.
        Refused = "refused",
    }
}

//! Closed sets of what is said of connections and exchanges that are no calls.

use super::label_enum;

label_enum! {
    /// Why a connection passed unread.
    Unread {
        /// No provider's host.
        UnknownHost = "unknown_host",
        /// `tls.intercept` says so.
        InterceptOff = "intercept_off",
        /// There is no authority.
        NoCa = "no_ca",
        /// The authority may not vouch for the host.
        NotPermitted = "not_permitted",
        /// The client refused our certificate before.
        Pinned = "pinned",
        /// The real hello is encrypted, behind the name of a front.
        EncryptedHello = "encrypted_hello",
        /// The client speaks no TLS 1.2.
        OldTls = "old_tls",
        /// Neither TLS nor HTTP, or something else than HTTP inside.
        NotHttp = "not_http",
    }
}

label_enum! {
    /// Why accepting connections had to wait.
    AcceptPause {
        /// As many as may be are open.
        Limit = "limit",
        /// The process or the system is out of descriptors.
        Descriptors = "descriptors",
        /// Anything else, such as a lack of memory.
        Failed = "failed",
    }
}

label_enum! {
    /// How a TLS handshake with an application ended.
    HandshakeEnd {
        /// Both sides agree.
        Done = "done",
        /// The application does not accept our certificate.
        Refused = "refused",
        /// Anything else: no common version, silence, a connection that broke.
        Failed = "failed",
    }
}

label_enum! {
    /// Why a forward-proxy request was refused.
    ForwardRefusal {
        /// Without the right password.
        Auth = "proxy_auth",
        /// `forward.tunnels` does not let this client go to a host that is no provider's.
        Host = "host_not_allowed",
        /// An address that nobody is connected to.
        Target = "forbidden_target",
        /// Nobody answers there.
        Unreachable = "unreachable",
        /// No host, no port, or a password in it.
        BadRequest = "bad_request",
    }
}

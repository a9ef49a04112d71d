//! The closed sets in which a call's result is told: outcome, fault, retry advice, finding.

use super::label_enum;

label_enum! {
    /// What became of a call, the same 27 words for every provider.
    Outcome {
        Ok = "ok",
        ContentBlocked = "content_blocked",
        AuthMissing = "auth_missing",
        AuthInvalid = "auth_invalid",
        AuthRevoked = "auth_revoked",
        OrgProjectMismatch = "org_project_mismatch",
        IpNotAllowed = "ip_not_allowed",
        RegionUnsupported = "region_unsupported",
        PermissionDenied = "permission_denied",
        ModelUnavailable = "model_unavailable",
        NotFound = "not_found",
        RateLimitRequests = "rate_limit_requests",
        RateLimitTokens = "rate_limit_tokens",
        RateLimitDaily = "rate_limit_daily",
        RateLimitOther = "rate_limit_other",
        CreditExhausted = "credit_exhausted",
        SpendLimitReached = "spend_limit_reached",
        InputTooLarge = "input_too_large",
        InvalidRequest = "invalid_request",
        ProviderOverloaded = "provider_overloaded",
        ProviderError = "provider_error",
        GatewayError = "gateway_error",
        EdgeBlocked = "edge_blocked",
        StreamTruncated = "stream_truncated",
        NetworkError = "network_error",
        ClientCancelled = "client_cancelled",
        UnknownError = "unknown_error",
    }
}

label_enum! {
    /// Whose side must act.
    Fault {
        None = "none",
        Key = "key",
        Config = "config",
        Traffic = "traffic",
        Account = "account",
        Provider = "provider",
        Network = "network",
        Client = "client",
        Unknown = "unknown",
    }
}

label_enum! {
    /// Whether sending the same request again can help.
    Retry {
        /// Nothing to retry.
        NotNeeded = "not_needed",
        /// Never unchanged.
        Never = "never",
        /// Once, at once.
        Once = "once",
        /// With exponential backoff and jitter.
        Backoff = "backoff",
        /// After the wait that the provider names, else with backoff.
        AfterHint = "after_hint",
    }
}

label_enum! {
    /// What can be said of a key or of how it is used, whatever the provider answered. A finding never changes a call.
    Finding {
        KeyWhitespace = "key_whitespace",
        KeyHiddenUnicode = "key_hidden_unicode",
        KeyQuoted = "key_quoted",
        KeyEmpty = "key_empty",
        KeyMissing = "key_missing",
        KeyLiteralNull = "key_literal_null",
        KeyUnexpanded = "key_unexpanded",
        KeyPlaceholder = "key_placeholder",
        KeyDoubleScheme = "key_double_scheme",
        KeyIsUrlOrProse = "key_is_url_or_prose",
        KeyWrongProvider = "key_wrong_provider",
        KeyWrongPlace = "key_wrong_place",
        KeyTruncated = "key_truncated",
        KeyInUrl = "key_in_url",
        KeyInBrowser = "key_in_browser",
        AdminKeyOnDataPath = "admin_key_on_data_path",
        OrgHeaderSet = "org_header_set",
        BothAuthHeaders = "both_auth_headers",
        StaleKey = "stale_key",
        OldKeyStillUsed = "old_key_still_used",
        SharedKey = "shared_key",
        QuantisedBurst = "quantised_burst",
        RetryStorm = "retry_storm",
        IdleKey = "idle_key",
    }
}

impl Outcome {
    /// A failure in the sense of spans and alerts: everything but `ok`, `client_cancelled` and `content_blocked`.
    pub const fn is_failure(self) -> bool {
        !matches!(self, Outcome::Ok | Outcome::ClientCancelled | Outcome::ContentBlocked)
    }

    /// The provider refused the credential itself.
    pub const fn is_auth(self) -> bool {
        matches!(self, Outcome::AuthMissing | Outcome::AuthInvalid | Outcome::AuthRevoked)
    }
}

impl Retry {
    /// `retryable` of the call record.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Retry::Once | Retry::Backoff | Retry::AfterHint)
    }
}

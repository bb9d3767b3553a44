//! What the rules of a chain come to.

/// What may become of the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::nft) struct Decision {
    pub(in crate::nft) drops: bool,
    /// The chain of the rule.
    pub(in crate::nft) chain: String,
    /// The rule, or the policy.
    pub(in crate::nft) why: String,
    /// The rule's handle; none of the policy.
    pub(in crate::nft) rule: Option<u64>,
    /// Nothing was asked on the way there: it is for every packet that nothing before decided on.
    pub(in crate::nft) for_all: bool,
}

/// What a chain that packets come to does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::nft) struct Judgement {
    /// `None` when it is not known.
    pub(in crate::nft) drops: Option<bool>,
    /// What decides, or may decide otherwise.
    pub(in crate::nft) decision: Decision,
    /// What decides when nothing before it did.
    pub(in crate::nft) last: Decision,
    pub(in crate::nft) reason: String,
}

/// What all that may decide comes to.
pub(super) fn conclude(base: &str, mut decisions: Vec<Decision>) -> Judgement {
    let last = decisions.pop().unwrap_or(Decision {
        drops: false,
        chain: base.to_owned(),
        why: "no rule".to_owned(),
        rule: None,
        for_all: true,
    });
    let place = |decision: &Decision| match decision.chain == base {
        true => decision.why.clone(),
        false => format!("{} (chain {})", decision.why, decision.chain),
    };
    match decisions.into_iter().find(|other| other.drops != last.drops) {
        None => {
            let (drops, reason) = (Some(last.drops), place(&last));
            Judgement { drops, reason, decision: last.clone(), last }
        }
        Some(other) => {
            let reason = format!("depends on the packet: {}; else {}", place(&other), place(&last));
            let decision = if other.drops { other } else { last.clone() };
            Judgement { drops: None, reason, decision, last }
        }
    }
}

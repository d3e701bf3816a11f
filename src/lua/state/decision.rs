//! What functions of rules return: numbers, each with the action that it stands for.

use crate::rules::action::DELAY_MS_MAX;
use crate::rules::script::{ScriptAction, Spoofed};
use crate::wire::header;
use crate::wire::header::rcode;

/// `DNSAction` and `DNSResponseAction` in one list, each number with the action that it stands for
/// by itself.
pub(crate) const ACTIONS: [(&str, Option<ScriptAction>); 17] = [
    ("None", Some(ScriptAction::None)),
    ("Allow", Some(ScriptAction::Allow)),
    ("Drop", Some(ScriptAction::Drop)),
    ("Nxdomain", Some(ScriptAction::RCode(rcode::NXDOMAIN))),
    ("Refused", Some(ScriptAction::RCode(rcode::REFUSED))),
    ("ServFail", Some(ScriptAction::RCode(rcode::SERVFAIL))),
    ("Spoof", Some(ScriptAction::Spoof)),
    ("SpoofRaw", Some(ScriptAction::SpoofRaw)),
    ("SpoofPacket", Some(ScriptAction::SpoofPacket)),
    ("HeaderModify", Some(ScriptAction::HeaderModify)),
    ("Pool", Some(ScriptAction::Pool)),
    (DELAY, None),
    ("Truncate", Some(ScriptAction::Truncate)),
    ("NoRecurse", Some(ScriptAction::NoRecurse)),
    ("NoOp", Some(ScriptAction::None)),
    (TAG, None),
    ("SpoofCNAME", Some(ScriptAction::Spoof)),
];
/// The action whose argument is part of it.
const DELAY: &str = "Delay";
/// The action that other functions than those of rules have.
const TAG: &str = "SetTag";

/// Returns the action for a number of [`ACTIONS`], with its argument; `answered`: the function has
/// made the answer itself.
pub(crate) fn decision(number: f64, argument: &[u8], answered: bool) -> mlua::Result<ScriptAction> {
    // A fraction or NaN is not in the list.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let (at, is_whole) = (number as usize, number as usize as f64 == number);
    match ACTIONS.get(at).filter(|_| is_whole) {
        // The answer is there: nothing is left to be made of an argument.
        Some((_, Some(ScriptAction::Spoof | ScriptAction::SpoofRaw | ScriptAction::SpoofPacket)))
            if answered && argument.is_empty() =>
        {
            Ok(ScriptAction::HeaderModify)
        }
        Some((_, Some(ScriptAction::Spoof))) if Spoofed::read(argument).is_none() => {
            let needs = "DNSAction.Spoof needs addresses or a name as its argument; an international name in \
                         its form with \"xn--\"";
            Err(mlua::Error::runtime(needs))
        }
        Some((_, Some(ScriptAction::SpoofRaw))) if argument.is_empty() => {
            let needs =
                "DNSAction.SpoofRaw needs the contents of a record as its argument, or dq:spoof() before";
            Err(mlua::Error::runtime(needs))
        }
        Some((_, Some(ScriptAction::SpoofPacket))) if argument.len() < header::LEN => {
            Err(mlua::Error::runtime("DNSAction.SpoofPacket needs a DNS message as its argument"))
        }
        Some((_, Some(action))) => Ok(*action),
        Some((DELAY, None)) => {
            let ms = std::str::from_utf8(argument).ok().and_then(|t| t.trim().parse::<u32>().ok());
            let ms = ms.ok_or_else(|| {
                mlua::Error::runtime("DNSAction.Delay needs a number of milliseconds as its argument")
            })?;
            // At most as long as DelayAction may delay an answer.
            Ok(ScriptAction::Delay(ms.min(DELAY_MS_MAX)))
        }
        Some((TAG, None)) => {
            let instead =
                "DNSAction.SetTag says no tag: call dq:setTag(name, value) and return DNSAction.None";
            Err(mlua::Error::runtime(instead))
        }
        other => {
            let name = other.map(|(name, _)| format!(" ({name})")).unwrap_or_default();
            let what = format!("a function returned {number}{name}, which is not a decision here");
            Err(mlua::Error::runtime(what))
        }
    }
}

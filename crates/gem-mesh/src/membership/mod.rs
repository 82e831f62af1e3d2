//! Who lives, and how loaded they are.

pub mod member;
pub mod settings;
pub mod swim;

mod health;
mod identity;
mod roll;
mod rumours;
mod sync;
mod wire;

pub use identity::MEMBER_TEXT_MAX;
pub use member::{Load, Member};
pub use settings::Settings;
pub use swim::{Action, State, Swim};

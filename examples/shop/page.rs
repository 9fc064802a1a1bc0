//! What the shop looks like: one page, from plain data to HTML. It reads nothing and decides nothing.
//!
//! Invariant: every text that came from somebody goes through maud's escaping.

use maud::{DOCTYPE, Markup, html};

use super::goods::{GOODS, Item};

/// All that the page shows.
pub struct Page {
    /// Whether there is a session.
    pub is_known: bool,
    pub user: Option<String>,
    /// Item and how many of it.
    pub cart: Vec<(&'static Item, u32)>,
    pub devices: Vec<DeviceLine>,
    pub notice: Option<&'static str>,
}

/// A signed-in device.
pub struct DeviceLine {
    pub label: String,
    pub since: String,
    pub is_this_one: bool,
}

impl Page {
    pub fn render(&self) -> Markup {
        let pieces: u32 = self.cart.iter().map(|(_, count)| count).sum();
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { "The Coat Shop" }
                    link rel="stylesheet" href="/shop.css";
                }
                body {
                    header {
                        div .bar {
                            a .brand href="/" { "The Coat Shop" }
                            (self.badge(pieces))
                        }
                    }
                    main {
                        @if let Some(notice) = self.notice { p .notice role="status" { (notice) } }
                        div .columns {
                            (goods())
                            div { (self.cart(pieces)) (self.account()) }
                        }
                    }
                }
            }
        }
    }

    fn badge(&self, pieces: u32) -> Markup {
        html! {
            div .badges {
                @if let Some(user) = &self.user { span #who { (user) } }
                span .pill #pieces { (pieces) @if pieces == 1 { " piece" } @else { " pieces" } }
            }
        }
    }

    fn cart(&self, pieces: u32) -> Markup {
        let total: u32 = self.cart.iter().map(|(item, count)| item.cents * count).sum();
        html! {
            section .card #cart {
                h2 { "Cart " span .count { (pieces) } }
                @if self.cart.is_empty() {
                    p .quiet {
                        "Nothing yet."
                        @if !self.is_known { " Until you put something here or sign in, this site stores nothing about you." }
                    }
                } @else {
                    table {
                        @for (item, count) in &self.cart {
                            tr data-item=(item.slug) data-count=(count) {
                                td .number { (count) " ×" }
                                td { (item.name) }
                                td .number { (euros(item.cents * count)) }
                                td .end { (button("/cart/remove", "Remove", Some(item), "link")) }
                            }
                        }
                        tr .total { td {} td { "Total" } td .number { (euros(total)) } td {} }
                    }
                }
            }
        }
    }

    fn account(&self) -> Markup {
        let Some(user) = &self.user else {
            return html! {
                section .card #account {
                    h2 { "Sign in" }
                    form .line method="post" action="/sign-in" {
                        input name="name" required maxlength="40" autocomplete="username" placeholder="Your name" aria-label="Your name";
                        button { "Sign in" }
                    }
                    p .quiet { "Any name will do: there are no passwords here. Your cart comes along." }
                }
            };
        };
        html! {
            section .card #account {
                h2 { "Your devices " span .count { (self.devices.len()) } }
                p .quiet { "Signed in as " strong { (user) } "." }
                ul .devices {
                    @for device in &self.devices {
                        li {
                            div { strong { (device.label) } br; span .quiet { "since " (device.since) } }
                            @if device.is_this_one { span .pill { "this device" } }
                        }
                    }
                }
                div .line {
                    (button("/sign-out", "Sign out here", None, ""))
                    (button("/sign-out-everywhere", "Sign out everywhere", None, "danger"))
                }
            }
        }
    }
}

fn goods() -> Markup {
    html! {
        section {
            h1 { "Coats and company" }
            ul .goods {
                @for item in &GOODS {
                    li {
                        div .swatch.(item.slug) aria-hidden="true" { (item.sign) }
                        div .what { strong { (item.name) } span .price { (euros(item.cents)) } }
                        (button("/cart/add", "Add", Some(item), "small"))
                    }
                }
            }
        }
    }
}

/// A form of one button: what changes something is a POST.
fn button(action: &str, text: &str, item: Option<&Item>, class: &str) -> Markup {
    html! {
        form method="post" action=(action) {
            @if let Some(item) = item { input type="hidden" name="item" value=(item.slug); }
            button class=(class) { (text) @if let Some(item) = item { span .hidden { " " (item.name) } } }
        }
    }
}

fn euros(cents: u32) -> String {
    format!("€ {}.{:02}", cents / 100, cents % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_users_is_escaped() {
        let evil = "<script>alert(1)</script>\"'&";
        let line = DeviceLine { label: evil.into(), since: "now".into(), is_this_one: true };
        let page = Page {
            is_known: true,
            user: Some(evil.into()),
            cart: vec![(&GOODS[0], 2)],
            devices: vec![line],
            notice: None,
        };
        let html = page.render().into_string();
        assert!(!html.contains("<script"), "{html}");
        assert!(html.contains("&lt;script&gt;"));
        assert!(html.contains("2 pieces"));
    }
}

//! How it looks, sounds and is worked: narrow, dark, in Chinese, by keyboard, by ear.

use serde_json::{Value, json};
use thirtyfour::Key;

use super::{Scene, Visitor};
use crate::{backend_test, support::backend::TestDb};

/// axe-core 4.14.1 by Deque Systems (MPL-2.0), as published: <https://github.com/dequelabs/axe-core>.
const AXE: &str = include_str!("axe.min.js");

/// The rules that have an answer: WCAG 2.2 up to AA, and good practice.
const CHECK: &str = "
    const [done] = arguments;
    const values = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
    axe.run(document, { runOnly: { type: 'tag', values } }).then(({ violations }) =>
        done(violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html.slice(0, 200)).join(' | ')}`)));";

/// Every view, with words that are there when it is drawn.
fn views(scene: &Scene) -> [(String, &'static str); 9] {
    let view = |hash: &str, words| (format!("#/{hash}"), words);
    [
        view("overview", "Failed last"),
        view("models", "painter"),
        view("lanes", "Counted at"),
        view("tasks", "of 6"),
        view(&format!("task/{}", scene.failed), "Why it failed"),
        view("stats", "Average call"),
        view("log", "createTask"),
        view("health", "Object storage"),
        view("tenants", "Nothing is set"),
    ]
}

async fn violations(visitor: &Visitor) -> Value {
    visitor.finds_out(AXE).await;
    visitor.driver.execute_async(CHECK, Vec::new()).await.unwrap().json().clone()
}

backend_test!(every_view_meets_the_rules_of_accessibility_in_light_and_dark, async |db: &TestDb| {
    let Some(scene) = Scene::set(db).await else { return };
    let visitor = &scene.visitor;
    for (hash, words) in views(&scene) {
        visitor.goes(&hash).await;
        visitor.sees(words).await;
        for theme in ["light", "dark"] {
            visitor.prefers("prefers-color-scheme", theme).await;
            assert_eq!(violations(visitor).await, json!([]), "{hash} in {theme}");
        }
    }
    visitor.goes("#/models").await;
    visitor.presses("Register a model").await;
    assert_eq!(violations(visitor).await, json!([]), "the form");
    scene.ends().await;
});

backend_test!(nothing_is_wider_than_the_screen_of_a_phone, async |db: &TestDb| {
    let Some(scene) = Scene::set(db).await else { return };
    let visitor = &scene.visitor;
    for width in [390, 1280] {
        visitor.looks_at_width(width).await;
        for (hash, words) in views(&scene) {
            visitor.goes(&hash).await;
            visitor.sees(words).await;
            let wide = visitor.finds_out("return document.documentElement.scrollWidth").await;
            assert!(wide.as_u64().unwrap() <= u64::from(width), "{hash} is {wide} wide on {width}");
        }
    }
    scene.ends().await;
});

backend_test!(language_and_theme_are_chosen_and_remembered, async |db: &TestDb| {
    let Some(scene) = Scene::set(db).await else { return };
    let visitor = &scene.visitor;
    let ground = "return getComputedStyle(document.body).backgroundColor";
    visitor.sees("Failed last").await;
    let light = visitor.finds_out(ground).await;
    visitor.presses("Theme: System").await;
    visitor.presses("Theme: Light").await;
    visitor.presses("中文").await;
    visitor.sees("最近失败").await;
    visitor.driver.refresh().await.unwrap();
    visitor.sees("最近失败").await;
    assert_eq!(visitor.finds_out("return document.documentElement.lang").await, "zh-CN");
    assert_ne!(visitor.finds_out(ground).await, light);
    visitor.presses("English").await;
    visitor.sees("Failed last").await;
    scene.ends().await;
});

backend_test!(everything_is_reached_by_keyboard, async |db: &TestDb| {
    let Some(scene) = Scene::set(db).await else { return };
    let visitor = &scene.visitor;
    let enter = Key::Enter.value().to_string();
    visitor.sees("Failed last").await;
    // From the top of the page, as after loading it.
    visitor.finds_out("document.activeElement.blur(); getSelection().removeAllRanges(); return null").await;
    let mut passed = Vec::new();
    while passed.last().is_none_or(|name| name != "Models") {
        visitor.tabs().await;
        passed.push(visitor.focus().await);
        assert!(passed.len() < 25, "{passed:?}");
    }
    assert_eq!(passed[0], "Skip to content");
    assert!(passed.iter().any(|name| name.starts_with("Theme:")), "{passed:?}");
    visitor.types(&enter).await;
    visitor.sees("Test call").await;
    assert_eq!(visitor.focus().await, "Models", "the heading of what was opened");
    visitor.tabs().await;
    visitor.tabs().await;
    assert_eq!(visitor.focus().await, "Register a model");
    visitor.types(&enter).await;
    visitor.sees("What callers name in createTask.").await;
    assert_eq!(visitor.focus().await, "Name");
    visitor.types(&Key::Escape.value().to_string()).await;
    visitor.sees_no_more("What callers name in createTask.").await;
    assert_eq!(visitor.focus().await, "Register a model");
    scene.ends().await;
});

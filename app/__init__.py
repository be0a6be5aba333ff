"""The Gradio explorer."""

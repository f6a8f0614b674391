"""What a user looks at: why there are so many launches, what lazyflow runs on, and what batching gains."""

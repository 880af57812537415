"""The four steps of every layer on ``keras.ops``; a file's name begins with the step that it belongs to."""

"""Operations on whole models, and what they rest on."""

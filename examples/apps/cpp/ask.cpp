// `ask FOLDER TEXT`: asks a model that olivebuild built or exported, and writes while it answers.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "genai.h"

template <class T> struct Owned {
  void (*destroy)(T*);
  T* value = nullptr;
  operator T*() const { return value; }
  ~Owned() { destroy(value); }
};
static void check(OgaResult* result) {
  if (result) std::fprintf(stderr, "error: %s\n", OgaResultGetError(result)), std::_Exit(1);
}
static std::string quoted(const char* text) {
  std::string json = "\"";
  for (char piece[8]; const unsigned char c = *text; ++text) {
    std::snprintf(piece, sizeof piece, c < ' ' || c == '"' || c == '\\' ? "\\u%04x" : "%c", c);
    json += piece;
  }
  return json + '"';
}
static void ask(const char* folder, const char* text) {
  Owned<OgaModel> model{OgaDestroyModel};
  check(OgaCreateModel(folder, &model.value));
  Owned<OgaTokenizer> tokenizer{OgaDestroyTokenizer};
  check(OgaCreateTokenizer(model, &tokenizer.value));
  const std::string chat = "[{\"role\": \"user\", \"content\": " + quoted(text) + "}]";
  Owned<const char> prompt{OgaDestroyString};
  check(OgaTokenizerApplyChatTemplate(tokenizer, 0, chat.c_str(), 0, true, &prompt.value));
  Owned<OgaSequences> tokens{OgaDestroySequences};
  check(OgaCreateSequences(&tokens.value));
  check(OgaTokenizerEncode(tokenizer, prompt, tokens));
  Owned<OgaGeneratorParams> params{OgaDestroyGeneratorParams};
  check(OgaCreateGeneratorParams(model, &params.value));
  // At most 64 tokens, and one that is not written: the end of the answer.
  const double limit = OgaSequencesGetSequenceCount(tokens, 0) + 65;
  check(OgaGeneratorParamsSetSearchNumber(params, "max_length", limit));
  Owned<OgaGenerator> generator{OgaDestroyGenerator};
  check(OgaCreateGenerator(model, params, &generator.value));
  check(OgaGenerator_AppendTokenSequences(generator, tokens));
  Owned<OgaTokenizerStream> stream{OgaDestroyTokenizerStream};
  check(OgaCreateTokenizerStream(tokenizer, &stream.value));
  const int32_t* next;
  for (size_t count;; std::fputs(text, stdout), std::fflush(stdout)) {
    check(OgaGenerator_GenerateNextToken(generator));
    if (OgaGenerator_IsDone(generator)) break;
    check(OgaGenerator_GetNextTokens(generator, &next, &count));
    check(OgaTokenizerStreamDecode(stream, *next, &text));
  }
  std::puts("");
}
int main(int count, char** arguments) {
  if (count != 3) return std::fputs("usage: ask FOLDER TEXT\n", stderr), 2;
  ask(arguments[1], arguments[2]);
  OgaShutdown();
}

"""What applications call. `GenerationService.generate` tells the life of a request."""

from typing import Final

import grpc

from control_plane import codec
from control_plane.catalog import Catalog
from control_plane.completion import complete
from control_plane.config import LimitsConfig, TenantsConfig
from control_plane.core.types import Failed, Finished, Request
from control_plane.edge import Context, stream_method, unary_method
from control_plane.errors import Draining, PageInvalid
from control_plane.runtime.driver import Driver
from control_plane.state.ownership import Ownership
from control_plane.tenancy import tenant_of
from control_plane.text.encoder import PromptEncoder
from control_plane.types import ModelFacts
from multitude.v1 import generation_pb2

DEFAULT_PAGE_SIZE: Final = 100
MAX_PAGE_SIZE: Final = 1000
# Begins the tokens of ListModels' pages after the first; what follows is the store's own token.
ADAPTERS_PAGE: Final = "adapters:"
DRAINING_RETRY_S: Final = 1.0


class GenerationService:
    """What applications call."""

    def __init__(
        self,
        *,
        driver: Driver,
        encoder: PromptEncoder,
        catalog: Catalog,
        ownership: Ownership,
        facts: ModelFacts,
        limits: LimitsConfig,
        tenants: TenantsConfig,
    ) -> None:
        self._driver = driver
        self._encoder = encoder
        self._catalog = catalog
        self._ownership = ownership
        self._facts = facts
        self._limits = limits
        self._tenants = tenants
        # Messages with tokens that were sent to clients.
        self.num_chunks = 0
        self._is_draining = False

    def drain(self) -> None:
        """Takes no new request from now on."""
        self._is_draining = True

    async def generate(self, message: generation_pb2.GenerateRequest, context: Context) -> None:
        """Whose, decode, turn the prompt into tokens, resolve the adapter, complete, claim, submit, stream."""
        if self._is_draining:
            raise Draining("this control plane is shutting down; try another", retry_after_s=DRAINING_RETRY_S)
        tenant = tenant_of(context.invocation_metadata(), self._tenants)
        call = codec.decode_generate(message, self._limits, self._facts.vocab_size)
        prompt_token_ids = await self._encoder.encode(call.prompt)
        adapter = await self._catalog.resolve(call.adapter)
        request = complete(call, prompt_token_ids, adapter, self._facts, self._limits, tenant)
        if not call.is_request_id_chosen:
            await self._stream(request, context)
            return
        await self._ownership.claim(request.request_id)
        try:
            await self._stream(request, context)
        finally:
            self._ownership.release(request.request_id)

    async def count_tokens(self, message: generation_pb2.CountTokensRequest) -> generation_pb2.CountTokensResponse:
        """Counts a prompt's tokens as `generate` does."""
        token_ids = await self._encoder.encode(codec.decode_prompt(message.prompt))
        return generation_pb2.CountTokensResponse(token_count=len(token_ids))

    async def list_models(self, message: generation_pb2.ListModelsRequest) -> generation_pb2.ListModelsResponse:
        """The base model on the first page, then the store's adapters."""
        if not 0 <= message.page_size <= MAX_PAGE_SIZE:
            raise PageInvalid("page_size", f"is {message.page_size}; it must be in [1, {MAX_PAGE_SIZE}], or 0 for 100")
        if message.page_token and not message.page_token.startswith(ADAPTERS_PAGE):
            raise PageInvalid("page_token", "is not one that ListModels gave")
        room = message.page_size or DEFAULT_PAGE_SIZE
        models = []
        if not message.page_token:
            models.append(codec.encode_base_model(self._facts))
            room -= 1
        if not room:
            return generation_pb2.ListModelsResponse(models=models, next_page_token=ADAPTERS_PAGE)
        page = await self._catalog.list_page(room, message.page_token.removeprefix(ADAPTERS_PAGE))
        models += [
            codec.encode_adapter_model(entry.versions[0], self._facts)
            for entry in page.entries
            if entry.base_model == self._facts.name
        ]
        next_page_token = ADAPTERS_PAGE + page.next_page_token if page.next_page_token else ""
        return generation_pb2.ListModelsResponse(models=models, next_page_token=next_page_token)

    def handler(self) -> grpc.GenericRpcHandler:
        """The methods, for a server."""
        return grpc.method_handlers_generic_handler(
            generation_pb2.DESCRIPTOR.services_by_name["GenerationService"].full_name,
            {
                "Generate": stream_method(self.generate, generation_pb2.GenerateRequest),
                "CountTokens": unary_method(self.count_tokens, generation_pb2.CountTokensRequest),
                "ListModels": unary_method(self.list_models, generation_pb2.ListModelsRequest),
            },
        )

    async def _stream(self, request: Request, context: Context) -> None:
        """Writes a request's output until it ends. Raises its RequestError if it fails."""
        outbox = self._driver.submit(request)
        try:
            while True:
                delivery = await outbox.take()
                if delivery.is_started:
                    await context.write(codec.encode_started(request))
                if delivery.chunk is not None:
                    self.num_chunks += 1
                    await context.write(codec.encode_chunk(delivery.chunk))
                match delivery.end:
                    case Finished() as finished:
                        await context.write(codec.encode_finished(finished))
                        return
                    case Failed(_, error):
                        raise error
        finally:
            # Without effect on a request that ended; one whose client went away is stopped.
            self._driver.cancel(outbox)
